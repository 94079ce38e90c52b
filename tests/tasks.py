"""Tasks without a stage around them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from megatron_core.config import LocalExecution
from megatron_core.data.tasks import Tasks


def local_tasks(workers: int = 1) -> Tasks:
    """Nothing is done yet, and nobody asks for the results again."""
    return Tasks(Path(tempfile.mkdtemp()), LocalExecution(workers=workers))
