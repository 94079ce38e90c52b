"""Which backends each operation has, and which of them a run computes with."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.adamw import adamw_step
from kernels.attention import attention
from kernels.gelu import gelu
from kernels.layer_norm import layer_norm
from kernels.linear import add_weight_gradient, input_gradient, linear
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary
from kernels.support import Support
from kernels.swiglu import swiglu

REFERENCE = "reference"
# In the order in which `auto` tries them; the file of each in an operation's folder has its name.
BACKENDS = (
    "cpp", "blocked", "transformer_engine", "fp8_current", "mxfp8", "triton", "compiled",
)  # fmt: skip
# What each operation's backends define, as its reference does.
OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "adamw": ("adamw_step",),
    "attention": ("attention",),
    "gelu": ("gelu",),
    "layer_norm": ("layer_norm",),
    "linear": ("linear", "input_gradient", "add_weight_gradient"),
    "linear_cross_entropy": ("linear_cross_entropy",),
    "rms_norm": ("rms_norm",),
    "rotary": ("apply_rotary",),
    "swiglu": ("swiglu",),
}


class UnavailableError(Exception):
    """A backend that cannot be used here; says why and what to do."""


@dataclass(frozen=True)
class Kernels:
    """The functions that a model computes with; by default each operation's definition."""

    adamw_step: Callable[..., None] = adamw_step
    attention: Callable[..., Tensor] = attention
    gelu: Callable[..., Tensor] = gelu
    layer_norm: Callable[..., Tensor] = layer_norm
    linear: Callable[..., Tensor] = linear
    input_gradient: Callable[..., Tensor] = input_gradient
    add_weight_gradient: Callable[..., None] = add_weight_gradient
    linear_cross_entropy: Callable[..., Any] = linear_cross_entropy
    rms_norm: Callable[..., Tensor] = rms_norm
    apply_rotary: Callable[..., Tensor] = apply_rotary
    swiglu: Callable[..., Tensor] = swiglu


DEFINITIONS = Kernels()


@dataclass(frozen=True)
class Choice:
    """The backend of one operation, and why it is that one."""

    operation: str
    backend: str
    reason: str
    refused: bool = False  # whether `auto` would have taken another, which something hinders


def backends(operation: str) -> list[str]:
    """Those that ``operation`` has, its reference first."""
    present = [
        name
        for name in BACKENDS
        if importlib.util.find_spec(f"kernels.{operation}.{name}") is not None
    ]
    return [REFERENCE, *present]


def choose(operation: str, wanted: str, device: str, dtype: torch.dtype) -> Choice:
    """The backend for tensors of ``dtype`` on ``device``.

    Args:
        wanted: One of :func:`backends`, or ``auto``: the first that can be used and pays.

    Raises:
        UnavailableError: ``wanted`` cannot be used here.
    """
    if wanted == REFERENCE:
        return Choice(operation, wanted, "as asked for")
    if wanted != "auto":
        if wanted not in backends(operation):
            raise UnavailableError(
                f"kernels.{operation}: there is no backend {wanted!r}; it has "
                f"{', '.join(backends(operation))}"
            )
        found = support(operation, wanted).obstacle(device, dtype)
        if found is not None:
            raise UnavailableError(f"kernels.{operation}: {wanted} cannot be used: {found}")
        return Choice(operation, wanted, "as asked for")
    refused = []
    for name in backends(operation)[1:]:
        able = support(operation, name)
        if device not in able.automatic:
            continue
        found = able.obstacle(device, dtype)
        if found is None:
            return Choice(operation, name, f"it pays on {device}")
        refused.append(f"{name}: {found}")
    reason = "; ".join(refused) or f"nothing else pays on {device}"
    return Choice(operation, REFERENCE, reason, refused=bool(refused))


def support(operation: str, backend: str) -> Support:
    """What ``backend`` says of itself."""
    found: Support = importlib.import_module(f"kernels.{operation}.{backend}").SUPPORT
    return found


def load(choices: Mapping[str, str]) -> Kernels:
    """The functions of the chosen backend of each operation; the definition of those left out."""
    functions: dict[str, Any] = {}
    for operation, backend in choices.items():
        if backend != REFERENCE:
            module = importlib.import_module(f"kernels.{operation}.{backend}")
            functions |= {name: getattr(module, name) for name in OPERATIONS[operation]}
    return Kernels(**functions)
