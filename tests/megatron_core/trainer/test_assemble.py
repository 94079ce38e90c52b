"""Trainings that start from a checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from megatron_core.checkpoint import StoredWeights, find_checkpoints, read_checkpoint
from megatron_core.config import (
    AdamW,
    BatchSizes,
    Checkpoints,
    ContinuedConfig,
    Grid,
    MaskingConfig,
    RateSchedule,
    TaskSettings,
)
from megatron_core.errors import ConfigError
from megatron_core.exchange import ModelFolder
from megatron_core.model import HeadSpec, TaskModel
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import continued_pretraining, fine_tuning
from megatron_core.trainer.examples import ExampleObjective, Examples
from tests.models import random_decoder, write_checkpoint
from tests.ranks import run_ranks
from tests.recipes import recipe

SETTINGS = TaskSettings(
    steps=4, sequence_length=16, batch=BatchSizes(sequences=8, microbatch=2),
    grid=Grid(data=2, tensor=2), optimizer=AdamW(learning_rate=1e-2),
    schedule=RateSchedule(warmup_steps=1), checkpoints=Checkpoints(every=4), validate_every=100,
    threads=1, trackers=[],
)  # fmt: skip


def examples() -> Examples:
    rows, places = torch.arange(24)[:, None], torch.arange(16)
    documents = torch.where(places < 3 + rows % 14, 0, -1)
    tokens = ((5 * rows + places) % 64).where(documents == 0, 0)
    return Examples(tokens, documents, rows.T % 3, types=torch.zeros_like(tokens))


def classify(start: Path, folder: Path, layout: str) -> None:
    stored = ModelFolder.open(start)
    make = partial(TaskModel, stored.config, HeadSpec("classes", 3))
    objective = ExampleObjective(examples(), examples(), seed=1)
    with open_mesh(Layout.parse(layout), "cpu", 1) as mesh:
        fine_tuning(
            "classes", SETTINGS, None, stored, make, objective, {}, {}, folder, mesh
        ).train()


def test_a_task_starts_from_an_encoder_that_tells_pairs(tmp_path: Path) -> None:
    """It has the encoder's layers alone, trains all of them, and on every layout alike."""
    encoder = random_decoder(recipe("pairs").model)
    write_checkpoint(tmp_path, encoder)
    start = tmp_path / "step-00000001"
    found = []
    for layout in ("data=1", "data=2,tensor=2,pipeline=2"):
        folder = tmp_path / layout
        ranks = Layout.parse(layout).ranks
        assert run_ranks(classify, ranks, start, folder, layout) == [0] * ranks
        (run,) = folder.glob("classes-*")
        found.append(find_checkpoints(run / "checkpoints")[-1])
    ours, theirs = (read_checkpoint(checkpoint) for checkpoint in found)
    assert ours.root == theirs.root
    before, after = StoredWeights(start), StoredWeights(found[0])
    kept = {
        f"backbone.{name}"
        for name in before
        if not name.startswith(("transform", "pool", "pair", "head"))
    }
    assert {*after} == kept | {"head.weight", "head.bias"}
    for name in kept:
        moved = (before[name.removeprefix("backbone.")] != after[name]).any()
        assert moved or name.endswith("key.bias"), name


@pytest.mark.parametrize("family", ["pairs", "bert"])
def test_what_trains_no_pooler_and_what_has_none_to_train_is_refused(
    family: str, tokens: Path, tmp_path: Path
) -> None:
    """A checkpoint may have another architecture than the recipe's model."""
    write_checkpoint(tmp_path, random_decoder(recipe(family).model))
    stored = ModelFolder.open(tmp_path / "step-00000001")
    pairs = "none" if family == "pairs" else "sentence_order"
    config = ContinuedConfig(
        steps=1, sequence_length=16, schedule=RateSchedule(warmup_steps=0),
        masking=MaskingConfig(framed=True, pairs=pairs),
    )  # fmt: skip
    said = "has a pooler" if family == "pairs" else "has no pooler"
    with (
        open_mesh(Layout(), "cpu", 1) as mesh,
        pytest.raises(ConfigError, match=rf"masking\.pairs is {pairs}, but .* {said}"),
    ):
        continued_pretraining(config, stored, tokens, {}, tmp_path, mesh)
