"""The trainer against a plain loop in float64, and how it stops and goes on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_core.checkpoint import StoredWeights, last_checkpoint
from megatron_core.config import (
    AdamW,
    BatchSizes,
    Checkpoints,
    Grid,
    LossScale,
    PretrainConfig,
    RateSchedule,
)
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.parallel.batch import LossSums
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer import LanguageObjective, Trainer
from megatron_core.trainer.assemble import pretraining
from tests import plain, trainings
from tests.plain import Record
from tests.recipes import recipe, small_model

MODELS = {
    "decoder": small_model(layers=2),
    "untied": small_model(layers=2, tied_embeddings=False, kv_heads=4),
    "encoder": small_model(layers=2, kind="encoder", kv_heads=4),
}


def train(
    config: PretrainConfig, tokens: Path, folder: Path,
    prepare: Callable[[Trainer], None] = lambda trainer: None,
) -> Trainer:  # fmt: skip
    """Train to the end in this process."""
    with open_mesh(Layout(), "cpu", 1) as mesh:
        trainer = pretraining(config, tokens, {}, folder, mesh)
        prepare(trainer)
        trainer.train()
    return trainer


def records(trainer: Trainer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in trainer.run.steps.read_text().splitlines()]


def root(trainer: Trainer) -> str:
    found = last_checkpoint(trainer.run.checkpoints)
    assert found is not None
    return found[1].root


def state(trainer: Trainer) -> list[torch.Tensor]:
    """Copies of main weights and moments."""
    return [run.data.clone() for run in trainer.engine.state()]


def long_recipe(model: str) -> PretrainConfig:
    """Fifty steps on a grid that is cut in every dimension."""
    return recipe(
        model=MODELS[model], steps=50, grid=Grid(data=2, tensor=2, context=2),
        batch=BatchSizes(sequences=8, microbatch=2), schedule=RateSchedule(warmup_steps=5),
        optimizer=AdamW(learning_rate=3e-3, clip=0.7, weight_decay=0.2),
        checkpoints=Checkpoints(every=100),
    )  # fmt: skip


def assert_plain(ours: list[dict[str, Any]], expected: list[Record]) -> None:
    """The same curve within the rounding of fp32."""
    assert [r["step"] for r in ours] == list(range(1, len(expected) + 1))
    for mine, exact in zip(ours, expected, strict=True):
        assert mine["learning_rate"] == pytest.approx(exact["learning_rate"], rel=1e-12)
        assert mine["loss"] == pytest.approx(exact["loss"], rel=2e-6), mine["step"]
        assert mine["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_curve_is_that_of_a_plain_loop_in_float64(
    model: str, tokens: Path, tmp_path: Path
) -> None:
    config = long_recipe(model)
    trainer = train(config, tokens, tmp_path)
    expected, weights = plain.train(config, trainer.objective)
    ours = records(trainer)
    assert_plain(ours, expected)
    assert max(r["gradient_norm"] for r in ours) > 0.7  # or nothing was clipped
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.3
    stored = StoredWeights(trainer.run.checkpoints / "step-00000050")
    assert stored.keys() == weights.keys()
    for name, weight in stored.items():
        torch.testing.assert_close(weight.double(), weights[name], rtol=1e-4, atol=1e-4, msg=name)


def test_so_is_that_of_four_ranks(tokens: Path, tmp_path: Path) -> None:
    config = long_recipe("decoder")
    assert trainings.train(tokens, tmp_path, config, "tensor=2,context=2")
    objective = LanguageObjective(tokens, config)
    ours = [json.loads(line) for line in trainings.Trained(tmp_path).steps.splitlines()]
    assert_plain(ours, plain.train(config, objective)[0])


@pytest.mark.parametrize("grid", [Grid(), Grid(data=4), Grid(tensor=2), Grid(context=4)], ids=str)
def test_another_grid_is_the_same_training_within_rounding(
    grid: Grid, tokens: Path, tmp_path: Path
) -> None:
    """Only the initial draws are others, by tensor shard, so both sides start from the grid's."""
    config = recipe(model=MODELS["decoder"], grid=grid, steps=3)
    trainer = train(config, tokens, tmp_path)
    assert_plain(records(trainer), plain.train(config, trainer.objective)[0])


def test_the_heldout_loss_is_that_of_the_last_weights(tokens: Path, tmp_path: Path) -> None:
    config = recipe(model=MODELS["decoder"])
    trainer = train(config, tokens, tmp_path)
    weights = StoredWeights(trainer.run.checkpoints / "step-00000002")
    batches = [make() for make in trainer.objective.heldout(config.batch.microbatch, 4)]
    total, count = 0.0, 0
    for batch in batches:
        exact = {name: weight.double() for name, weight in weights.items()}
        scores = plain.logits(exact, config.model, batch.tokens).log_softmax(-1)
        counted = batch.targets >= 0
        targets = batch.targets.clamp(min=0)[..., None]
        total -= float((scores.gather(-1, targets)[..., 0] * counted).sum())
        count += int(counted.sum())
    assert [record.get("heldout_loss") is None for record in records(trainer)] == [True, False]
    assert records(trainer)[-1]["heldout_loss"] == pytest.approx(total / count, rel=1e-5)


def test_bf16_is_near_fp32_and_computes_from_rounded_main_weights(
    tokens: Path, tmp_path: Path
) -> None:
    bf16 = train(recipe(precision="bf16", steps=4), tokens, tmp_path / "bf16")
    fp32 = train(recipe(steps=4), tokens, tmp_path / "fp32")
    assert root(bf16) != root(fp32)
    for mine, theirs in zip(records(bf16), records(fp32), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
    for bucket in bf16.engine.buckets:
        assert {shard.parameter.dtype for shard in bucket.shards} == {torch.bfloat16}
        if not bucket.tied:
            assert bucket.state.weights.dtype == torch.float32
            assert not torch.equal(bucket.state.weights, bucket.weights.float())
            assert torch.equal(bucket.state.weights.bfloat16(), bucket.weights)


def test_an_overflow_is_skipped_and_halves_the_scale(tokens: Path, tmp_path: Path) -> None:
    states: list[list[torch.Tensor]] = []

    def watch(trainer: Trainer) -> None:
        take_step = trainer._train_step

        def watched() -> dict[str, Any]:
            states.append(state(trainer))
            return take_step()

        trainer._train_step = watched  # type: ignore[method-assign]

    config = recipe(precision="fp16", loss_scale=LossScale(initial=2**15), steps=4)
    trainer = train(config, tokens, tmp_path, watch)
    taken = records(trainer)
    assert [record.get("skipped", False) for record in taken] == [True, True, True, False]
    assert [record["loss_scale"] for record in taken] == [2**15, 2**14, 2**13, 2**12]
    assert ["learning_rate" in record for record in taken] == [False, False, False, True]
    for later in states[1:]:  # no step that was skipped left a trace
        assert all(map(torch.equal, states[0], later))
    assert not any(map(torch.equal, states[0], state(trainer)))
    assert trainer.scaler.state() == {"loss_scale": 2**12, "quiet_steps": 1.0}


def poison(step: int, *, gradient: float = math.nan, loss: float = math.nan) -> Any:
    """What makes one step compute what is no number, and keeps the state from before it."""
    kept: list[tuple[Trainer, list[torch.Tensor]]] = []

    def prepare(trainer: Trainer) -> None:
        compute = trainer.engine.gradient

        def poisoned(read: Any, number: int, **options: float) -> LossSums:
            found = compute(read, number, **options)
            if number != step:
                return found
            kept.append((trainer, state(trainer)))
            for bucket in trainer.engine.buckets[-2:]:
                bucket.gradient[-1:] = gradient
            table = torch.zeros_like(found.table)
            table[0, 0, 0] = loss * found.predictions
            return replace(found, table=table)

        trainer.engine.gradient = poisoned  # type: ignore[method-assign]

    return prepare, kept


def test_a_loss_that_is_no_number_stops_before_the_update(tokens: Path, tmp_path: Path) -> None:
    config = recipe(steps=5)
    prepare, kept = poison(3)
    with pytest.raises(ReforgeError, match=r"the loss of step 3 is nan: the gradient is not finit"):
        train(config, tokens, tmp_path, prepare)
    ((trainer, before),) = kept
    assert trainer.step == 2
    assert len(records(trainer)) == 2
    assert all(map(torch.equal, before, state(trainer)))
    found = last_checkpoint(trainer.run.checkpoints)
    assert found is not None
    assert found[1].step == 2
    # The same command without the poison goes on from there to the bits of a run without it.
    assert root(train(config, tokens, tmp_path)) == root(train(config, tokens, tmp_path / "other"))


def test_so_does_a_gradient_that_no_scale_can_help(tokens: Path, tmp_path: Path) -> None:
    """Its tensors are named; at a scale of 1 an overflow is no matter of the scale."""
    for name, config in {
        "fp32": recipe(), "fp16": recipe(precision="fp16", loss_scale=LossScale(initial=1))
    }.items():  # fmt: skip
        prepare, kept = poison(1, gradient=math.inf, loss=4.0)
        with pytest.raises(ReforgeError, match=r"step 1 is 4\.0: the gradient is not finite in "):
            train(config, tokens, tmp_path / name, prepare)
        assert kept[0][0].step == 0


def test_a_finished_run_is_left_as_it_is(tokens: Path, tmp_path: Path) -> None:
    trainer = train(recipe(), tokens, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in trainer.run.checkpoints.rglob("*")}
    again = train(recipe(), tokens, tmp_path)
    assert again.steps_taken == 0
    assert {p: p.stat().st_mtime_ns for p in again.run.checkpoints.rglob("*")} == before
    assert records(again) == records(trainer)


def test_a_checkpoint_of_another_run_is_refused(tokens: Path, tmp_path: Path) -> None:
    theirs = train(recipe(seed=2), tokens, tmp_path)

    def slip_in(trainer: Trainer) -> None:
        shutil.copytree(theirs.run.checkpoints, trainer.run.checkpoints)

    with pytest.raises(IntegrityError, match="is of another recipe or other inputs: move it out"):
        train(recipe(), tokens, tmp_path, slip_in)


def test_without_fingerprints_none_are_kept(tokens: Path, tmp_path: Path) -> None:
    trainer = train(recipe(fingerprint_every=0), tokens, tmp_path / "none")
    assert not (trainer.run.folder / "fingerprints.bin").exists()
    assert root(trainer) == root(train(recipe(), tokens, tmp_path / "some"))
