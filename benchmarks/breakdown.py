"""Where the time of a step goes, by kinds of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

# The first kind counts that has a part of an operation's name; what is in no kind is the rest.
KINDS = {
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm", "mkldnn", "mkl_"),
    "attention": ("scaled_dot_product", "attention"),
    "cross-entropy": ("log_softmax", "nll_loss", "cross_entropy", "logsumexp"),
    "filling and copying": (
        "::copy_", "::fill_", "::zero_", "::cat", "::clone", "::empty", "::index_select",
        "::_to_copy", "::repeat_interleave", "::embedding", "::resize", "Memcpy", "Memset",
    ),
    "elementwise": (
        "fused", "::mul", "::add", "::sub", "::div", "::neg", "::silu", "::sigmoid", "::rsqrt",
        "::sqrt", "::square", "::pow", "::mean", "::sum", "::gelu", "::exp", "::where",
    ),
}  # fmt: skip
OPTIMIZER = "optimizer"  # a range: norm, checksums, clipping and the update


def kind_of(name: str) -> str:
    """The kind of the operation ``name``."""
    found = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
    return next(found, "rest")


def breakdown(step: Callable[[int], Any], numbers: range) -> dict[str, float]:
    """Seconds of a step by kind, the mean over ``numbers``; what the profiler costs is the rest."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for number in numbers:
            step(number)
    seconds = dict.fromkeys([*KINDS, OPTIMIZER, "rest"], 0.0)
    for event in profiled.events() or []:
        inside = OPTIMIZER in (one.name for one in _with_parents(event))
        kind = OPTIMIZER if inside else kind_of(event.name)
        seconds[kind] += event.self_cpu_time_total * 1e-6 / len(numbers)
    return seconds


def _with_parents(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent
