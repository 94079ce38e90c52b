"""Libraries that look for packages by names that ours also has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# transformers optionally uses a package that is called kernels, as one of ours is.
PROGRAM = """
import transformers.utils.import_utils as found
assert not found.is_kernels_available(), "our kernels/ is taken for another package"
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Trainer
import kernels
assert kernels.__file__.startswith({root!r}), kernels.__file__
"""


@pytest.mark.parametrize("inside", [False, True], ids=["elsewhere", "in_the_repository"])
def test_transformers_does_not_take_our_kernels_for_another_package(
    inside: bool, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
        cwd=ROOT if inside else tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
