"""What tests share: tiny corpora and recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from megatron_core.config import AdamW, BatchSizes, Checkpoints, Grid, ModelConfig, PretrainConfig
from megatron_core.config.training import RateSchedule
from megatron_core.data.indexed import IndexedWriter
from megatron_core.data.vocabulary import Vocabulary

# How long an example takes is the machine's matter.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenized documents of two sources over a vocabulary of 64, train and held out.

    Even tokens begin words; [CLS] is 61, [SEP] 62 and [MASK] 63.
    """
    folder = tmp_path_factory.mktemp("tokens")
    Vocabulary(64, {"cls": 61, "sep": 62, "mask": 63}, np.arange(64) % 2 == 0).write(folder)
    random = np.random.RandomState(0)
    for split, documents in (("train", 60), ("heldout", 8)):
        for source in ("notes", "books"):
            with IndexedWriter(folder / split / f"{source}_text_document", np.uint16) as writer:
                for _ in range(documents):
                    start = random.randint(64)
                    length = random.randint(20, 60)
                    steps = random.randint(1, 3, size=length)
                    writer.write([*((start + np.cumsum(steps)) % 63 + 1), 0])
    return folder


@pytest.fixture
def tiny() -> PretrainConfig:
    """A recipe of seconds."""
    return tiny_recipe()


def tiny_recipe() -> PretrainConfig:
    """Eight steps of a two-layer decoder on a grid of four data shards."""
    return PretrainConfig(
        steps=8,
        sequence_length=16,
        batch=BatchSizes(sequences=16, microbatch=2),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=RateSchedule(warmup_steps=2),
        grid=Grid(data=4),
        threads=1,
        checkpoints=Checkpoints(every=3, keep_last=5),
        validate_every=4,
        trackers=[],
        model=ModelConfig(
            vocabulary=64, positions=32, layers=2, hidden=32, heads=4, kv_heads=2, ffn=48
        ),
    )
