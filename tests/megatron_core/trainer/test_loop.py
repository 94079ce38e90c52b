"""The trainer against a plain loop in float64, and how it stops and goes on."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from megatron_core.checkpoint import last_checkpoint, load_weights
from megatron_core.config import AdamW, Grid, ModelConfig, PretrainConfig
from megatron_core.data.order import Mixture
from megatron_core.data.windows import TokenWindows, open_streams
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.model import LanguageModel, initialize
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import pretraining
from megatron_core.trainer.objective import LossSum, Objective

Record = dict[str, float]


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


def records(trainer: Trainer) -> list[Record]:
    return [json.loads(line) for line in trainer.run.steps.read_text().splitlines()]


def root(trainer: Trainer) -> str:
    found = last_checkpoint(trainer.run.checkpoints)
    assert found is not None
    return found[1].root


def plain_decoder(config: ModelConfig, seed: int) -> LanguageModel:
    """In float64, with tied weights as one parameter."""
    decoder = LanguageModel(config)
    initialize(decoder, config, seed)
    if config.tied_embeddings:
        decoder.head.weight = decoder.embedding.weight
    return decoder.double()


def plain_loop(config: PretrainConfig, tokens: Path) -> tuple[list[Record], nn.Module]:
    """What anyone would write: the whole batch at once, torch's optimizer, torch's clipping."""
    decoder = plain_decoder(config.model, config.seed)
    adamw, warmup = config.optimizer, config.schedule.warmup_steps
    matrices = [p for p in decoder.parameters() if p.ndim == 2]
    others = [p for p in decoder.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": others, "weight_decay": 0.0}],
        lr=0.0, betas=(adamw.beta1, adamw.beta2), eps=adamw.epsilon,
        weight_decay=adamw.weight_decay,
    )  # fmt: skip
    windows = TokenWindows(open_streams(tokens / "train"), config.sequence_length)
    order = Mixture(windows.counts, dict.fromkeys(windows.counts, 1.0), config.seed)
    size, taken = config.batch.sequences, []
    for step in range(1, config.steps + 1):
        batch = windows.read([order.locate(k) for k in range((step - 1) * size, step * size)])
        loss = F.cross_entropy(decoder(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(decoder.parameters(), adamw.clip)
        turn = math.pi * (step - warmup) / (config.steps - warmup)
        share = step / warmup if step <= warmup else 0.55 + 0.45 * math.cos(turn)
        for group in optimizer.param_groups:
            group["lr"] = adamw.learning_rate * share
        optimizer.step()
        rate = adamw.learning_rate * share
        taken.append({"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate})
    return taken, decoder


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_curve_is_that_of_a_plain_loop_in_float64(
    tied: bool, tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    config = tiny.model_copy(
        update={
            "steps": 20, "grid": Grid(data=2),
            "optimizer": AdamW(learning_rate=3e-3, clip=0.7, weight_decay=0.2),
            "model": tiny.model.model_copy(update={"tied_embeddings": tied}),
        }
    )  # fmt: skip
    trainer = train(config, tokens, tmp_path)
    expected, decoder = plain_loop(config, tokens)
    ours = records(trainer)
    assert [r["step"] for r in ours] == list(range(1, 21))
    assert max(r["gradient_norm"] for r in ours) > 0.7  # or nothing was clipped
    assert ours[-1]["loss"] < ours[0]["loss"] - 0.3
    for mine, exact in zip(ours, expected, strict=True):
        for key, value in exact.items():
            assert mine[key] == pytest.approx(value, rel=2e-5), (key, mine["step"])
    (path,) = trainer.run.checkpoints.glob("step-00000020")
    exact_weights = dict(decoder.named_parameters(remove_duplicate=False))
    for name, weight in load_weights(path).items():
        torch.testing.assert_close(weight.double(), exact_weights[name], rtol=1e-4, atol=1e-5)


def test_tied_gradients_are_added_once_at_the_end_of_the_step(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    """The tokens of a batch are a power of two, so that dividing by them rounds nothing."""
    found = {}
    for tied in (True, False):
        model = tiny.model.model_copy(update={"tied_embeddings": tied})
        config = tiny.model_copy(update={"model": model})
        with open_mesh(Layout(), "cpu", 1) as mesh:
            trainer = pretraining(config, tokens, {}, tmp_path, mesh)
            if not tied:
                trainer._main["head.weight"].copy_(trainer._main["embedding.weight"])
            gradient, _ = trainer._gradient(1)
        found[tied] = trainer.state.layout.views(gradient)
    apart = found[False]
    together = apart["embedding.weight"] + apart["head.weight"]
    assert torch.equal(found[True]["embedding.weight"], together)
    assert torch.equal(found[True]["layers.0.ffn.up.weight"], apart["layers.0.ffn.up.weight"])


def test_bf16_is_reproducible_and_near_fp32(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    bf16 = tiny.model_copy(update={"precision": "bf16"})
    first, second = (train(bf16, tokens, tmp_path / name) for name in "ab")
    exact = train(tiny, tokens, tmp_path / "fp32")
    assert root(first) == root(second) != root(exact)
    assert {p.dtype for p in first.model.parameters()} == {torch.bfloat16}
    assert first.state.weights.dtype == torch.float32
    for mine, theirs in zip(records(first), records(exact), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
    # The model computes from the rounded main weights.
    weights = first.state.layout.views(first.state.weights)
    for name, parameter in first.model.named_parameters():
        if name != "head.weight":
            assert torch.equal(parameter, weights[name].bfloat16())


class Poisoned:
    """An objective whose loss is no number at one step; it keeps the state from before."""

    def __init__(self, inner: Objective, trainer: Trainer, step: int) -> None:
        self.inner, self.trainer, self.step = inner, trainer, step
        self.before: list[torch.Tensor] = []

    def loss(self, model: nn.Module, samples: Sequence[int]) -> LossSum:
        part = self.inner.loss(model, samples)
        if self.trainer.step + 1 == self.step:
            self.before = copy.deepcopy(list(self.trainer.state.tensors().values()))
            return LossSum(part.total * float("nan"), part.count)
        return part

    def heldout(self, model: nn.Module) -> LossSum:
        return self.inner.heldout(model)


def test_a_loss_that_is_no_number_stops_before_the_update(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    stopped: list[Trainer] = []

    def poison(trainer: Trainer) -> None:
        stopped.append(trainer)
        trainer.objective = Poisoned(trainer.objective, trainer, step=6)

    with pytest.raises(ReforgeError, match="the loss of step 6 is nan, and no update was made"):
        train(tiny, tokens, tmp_path, poison)
    (trainer,) = stopped
    assert trainer.step == 5
    assert len(records(trainer)) == 5
    assert isinstance(trainer.objective, Poisoned)
    for before, now in zip(trainer.objective.before, trainer.state.tensors().values(), strict=True):
        assert torch.equal(before, now)
    found = last_checkpoint(trainer.run.checkpoints)
    assert found is not None
    assert found[1].step == 3
    # The same command without the poison goes on from there to the bits of a run without it.
    assert root(train(tiny, tokens, tmp_path)) == root(train(tiny, tokens, tmp_path / "other"))


def test_a_finished_run_is_left_as_it_is(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    trainer = train(tiny, tokens, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in trainer.run.checkpoints.rglob("*")}
    again = train(tiny, tokens, tmp_path)
    assert again.steps_taken == 0
    assert {p: p.stat().st_mtime_ns for p in again.run.checkpoints.rglob("*")} == before
    assert records(again) == records(trainer)


def test_a_checkpoint_of_another_run_is_refused(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    theirs = train(tiny.model_copy(update={"seed": 2, "steps": 3}), tokens, tmp_path)

    def slip_in(trainer: Trainer) -> None:
        shutil.copytree(theirs.run.checkpoints, trainer.run.checkpoints)

    with pytest.raises(IntegrityError, match="is of another recipe or other inputs: move it out"):
        train(tiny, tokens, tmp_path, slip_in)
