"""What the command line and the processes of the data stages do without."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datatrove", "lm_eval", "spacy", "numba", "pyarrow")

LOADED = f"""\
import sys
from importlib.util import find_spec

import stages.app
assert not [name for name in {HEAVY} if name in sys.modules], "the command line"

import megatron_core.data.curation, megatron_core.data.dedup, megatron_core.data.ingestion
import megatron_core.data.decontamination, megatron_core.data.tokenization
assert not [name for name in {HEAVY[:5]} if name in sys.modules], "the data stages"

if find_spec("presidio_analyzer") is not None:
    from megatron_core.config.corpus.curate import Deidentify
    from megatron_core.data.curation.deidentification import Deidentifier
    Deidentifier(Deidentify())
    assert "spacy" in sys.modules, "this test is of nothing: presidio needs no spaCy"
    assert not [name for name in {HEAVY[:4]} if name in sys.modules], "the de-identifier"
    import torch, transformers  # are there again
"""


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
