"""Trainings that are compared do the same work."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from benchmarks.plain import PlainModel, give_weights
from benchmarks.steps import initial_weights, random_tokens
from benchmarks.variants import CHECKED, begin, build, build_all, check_same
from megatron_core.config import AdamW, BatchSizes, ModelConfig, PretrainConfig
from tests import plain

MODEL = ModelConfig(vocabulary=96, positions=32, layers=2, hidden=32, heads=4, kv_heads=2, ffn=48)
CONFIG = PretrainConfig(
    model=MODEL, sequence_length=32, batch=BatchSizes(sequences=4, microbatch=2),
    optimizer=AdamW(learning_rate=0.01, clip=0.5),
)  # fmt: skip


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_plain_model_is_the_decoder(tied: bool) -> None:
    config = CONFIG.model_copy(update={"model": MODEL.model_copy(update={"tied_embeddings": tied})})
    model = PlainModel(config.model)
    give_weights(model, initial_weights(config))
    tokens = random_tokens(config)(range(2)).tokens
    expected = plain.logits(plain.initial_weights(config), config.model, tokens)
    torch.testing.assert_close(model(tokens).double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["plain loop", "transformers' Trainer", "LitGPT, plain loop"])
def test_all_train_alike(name: str) -> None:
    """Microbatches, a clipped gradient and decay are the same, or the losses would part."""
    with ExitStack() as stack:
        steps = build_all(["Reforge", name], CONFIG, CHECKED + 2, stack)
        if name not in steps:
            pytest.skip(f"{name} needs what is not installed")
        losses = {known: begin(step)[1] for known, step in steps.items()}
        check_same(losses, 1e-5)
        after = [[float(step(CHECKED + n)) for n in (1, 2)] for step in steps.values()]
    torch.testing.assert_close(*after, rtol=0, atol=1e-5)
    first, *_, last = next(iter(losses.values()))
    assert abs(first - last) > 1e-3  # the weights did change


def test_others_need_no_deterministic_kernels_and_ours_do() -> None:
    modes = []
    with ExitStack() as stack:
        build("Reforge", CONFIG, 1, stack)
        free = build("plain loop", CONFIG, 1, stack)
        original = torch.optim.AdamW.step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.optim.AdamW, "step",
                lambda *a: modes.append(torch.get_deterministic_debug_mode()) or original(*a),
            )  # fmt: skip
            free(1)
        modes.append(torch.get_deterministic_debug_mode())
    assert modes == [0, 2]


@pytest.mark.parametrize("loss", [1.01, float("nan")])
def test_other_work_is_refused(loss: float) -> None:
    check_same({"a": [2.0, 1.0], "b": [2.0, 1.0 + 1e-6]}, 1e-5)
    with pytest.raises(SystemExit, match="b does not do the same work"):
        check_same({"a": [2.0, 1.0], "b": [2.0, loss]}, 1e-3)


def test_an_error_in_the_trainers_thread_is_told() -> None:
    with ExitStack() as stack:
        step = build("transformers' Trainer", CONFIG, 1, stack)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="planted"):

            def fail(*_: object, **__: object) -> None:
                raise RuntimeError("planted")

            patch.setattr(torch.nn.Embedding, "forward", fail)
            step(1)
