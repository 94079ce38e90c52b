"""Trainings of one recipe by Reforge and by others: the same weights, tokens and AdamW."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.litgpt import litgpt
from benchmarks.plain import PlainModel, give_weights, plain_step
from benchmarks.steps import engine_step, initial_weights, random_tokens
from benchmarks.turns import Step
from megatron_core.config import PretrainConfig
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh

# What is changed of the recipe, by what tables call it.
OURS: dict[str, dict[str, Any]] = {"Reforge": {}}

SAME = 1e-4  # by which losses of the first steps may differ in fp32
CHECKED = 2  # steps whose losses are compared

Build = Callable[[PretrainConfig, int, ExitStack], Step]


def build(name: str, config: PretrainConfig, steps: int, stack: ExitStack) -> Step:
    """The step of ``name``, of which at most ``steps`` are asked for, until ``stack`` closes.

    Raises:
        ImportError: what it needs is not installed.
    """
    if name in OURS:
        changed = PretrainConfig.model_validate(config.model_dump() | OURS[name])
        mesh = stack.enter_context(open_mesh(Layout(), config.device, config.threads))
        return engine_step(changed, mesh)
    return _at_liberty(OTHERS[name](config, steps, stack))


def build_all(
    names: list[str], config: PretrainConfig, steps: int, stack: ExitStack
) -> dict[str, Step]:
    """Those of ``names`` that can be had; it says which cannot."""
    found = {}
    for name in names:
        try:
            found[name] = build(name, config, steps, stack)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def begin(steps: Mapping[str, Step], same: float = SAME) -> dict[str, float]:
    """Take the first steps; the seconds of the very first, with what is compiled in it.

    Raises:
        SystemExit: losses differ, so the steps are not of the same training.
    """
    seconds, losses = {}, {}
    for name, step in steps.items():
        start = time.perf_counter()
        losses[name] = [float(step(1))]
        seconds[name] = time.perf_counter() - start
        losses[name] += [float(step(number)) for number in range(2, CHECKED + 1)]
    for name, found in losses.items():
        print(f"loss of the first {CHECKED} steps: {' '.join(f'{x:.6f}' for x in found)}  {name}")
    check_same(losses, same)
    return seconds


def check_same(losses: Mapping[str, list[float]], same: float = SAME) -> None:
    """Raise SystemExit if ``losses`` by name differ by more than ``same``, or are not numbers."""
    spread = max(max(column) - min(column) for column in zip(*losses.values(), strict=True))
    if not spread <= same:
        raise SystemExit(f"losses of the first steps differ by {spread:.1e}: not the same work")


def _at_liberty(step: Step) -> Step:
    """``step`` without the deterministic kernels that our engine asks for."""

    def free(number: int) -> Any:
        mode = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")
        try:
            return step(number)
        finally:
            torch.set_deterministic_debug_mode(mode)

    return free


def _plain(config: PretrainConfig, compiled: bool) -> Step:
    model = PlainModel(config.model)
    give_weights(model, initial_weights(config))
    return plain_step(model.to(config.device), config, random_tokens(config), compiled=compiled)


def _litgpt(config: PretrainConfig, steps: int, stack: ExitStack) -> Step:
    model = litgpt(config.model, initial_weights(config)).to(config.device)
    return plain_step(model, config, random_tokens(config))


def _trainer(config: PretrainConfig, steps: int, stack: ExitStack) -> Step:
    from benchmarks.peers.transformers import trainer_step

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    weights = initial_weights(config)
    return stack.enter_context(trainer_step(config, weights, random_tokens(config), steps, folder))


OTHERS: dict[str, Build] = {
    "plain loop": lambda config, *_: _plain(config, compiled=False),
    "plain loop, compiled": lambda config, *_: _plain(config, compiled=True),
    "transformers' Trainer": _trainer,
    "LitGPT, plain loop": _litgpt,
}
