"""Tokenizers of every kind, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tokenizers import KINDS, made


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind."""
    return {kind: made(tmp_path_factory.mktemp(kind), KINDS[kind]) for kind in KINDS}
