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
from benchmarks.peers.megatron import megatron
from benchmarks.plain import PlainModel, give_weights, plain_step
from benchmarks.steps import engine_step, initial_weights, random_tokens
from benchmarks.turns import Step
from megatron_core.config import PretrainConfig
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh

# What is changed of the recipe, by what tables call it.
OURS: dict[str, dict[str, Any]] = {
    "Reforge": {},
    "Reforge, definitions alone": {"kernels": {"default": "reference"}},
}

CHECKED = 3  # first steps, whose losses are compared

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


def begin(step: Step) -> tuple[float, list[float]]:
    """Seconds of the first step, with what is compiled in it, and the losses to compare."""
    start = time.perf_counter()
    losses = [float(step(1))]
    seconds = time.perf_counter() - start
    return seconds, losses + [float(step(number)) for number in range(2, CHECKED + 1)]


def check_same(losses: Mapping[str, list[float]], same: float) -> None:
    """Print the losses of the first steps by name, which show that the work is the same.

    Raises:
        SystemExit: they differ by more than ``same``, or are not numbers.
    """
    for name, found in losses.items():
        print(f"loss of the first {CHECKED} steps: {' '.join(f'{x:.6f}' for x in found)}  {name}")
    first, *_ = losses.values()
    for name, found in losses.items():
        parted = [abs(a - b) for a, b in zip(first, found, strict=True)]
        if not all(by <= same for by in parted):
            raise SystemExit(f"{name} does not do the same work: losses differ by {parted}")


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


def _megatron(config: PretrainConfig, steps: int, stack: ExitStack) -> Step:
    model = megatron(config.model, initial_weights(config), stack).to(config.device)
    return plain_step(model, config, random_tokens(config))


OTHERS: dict[str, Build] = {
    "plain loop": lambda config, *_: _plain(config, compiled=False),
    "plain loop, compiled": lambda config, *_: _plain(config, compiled=True),
    "transformers' Trainer": _trainer,
    "LitGPT, plain loop": _litgpt,
    "Megatron-Core, plain loop": _megatron,
}
