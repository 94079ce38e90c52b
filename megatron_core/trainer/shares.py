"""Where the time of traced steps went, by kind of work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from megatron_core.regions import Region

Event = Mapping[str, Any]

PRODUCTS, ATTENTION = "matrix products", "attention"
ELEMENTWISE = "norms and other elementwise work"
BETWEEN = "between operations"
ROWS = (
    PRODUCTS, ATTENTION, Region.HEAD, ELEMENTWISE, Region.OPTIMIZER, Region.EXCHANGE, Region.INPUT,
    Region.RECORDS, BETWEEN,
)  # fmt: skip

_KINDS = {
    ATTENTION: re.compile(r"[Aa]ttention|attn"),
    PRODUCTS: re.compile(r"::\w*(mm_?|matmul|linear)$|::mkl\w*linear"),
}
# Backends of our own, which call no operation of torch.
_FUSED = re.compile(r"_((rms|layer)?norm|swiglu|gelu|rotary)(backward)?", re.IGNORECASE)
# These compute nothing.
_VIEWS = re.compile(
    r"aten::(alias|as_strided|chunk|contiguous|detach|empty\w*|expand\w*|flatten|narrow|new_empty|"
    r"numpy_T|permute|_?reshape\w*|resolve_\w+|result_type|select|slice|split\w*|squeeze|t|to|"
    r"transpose|unbind|unflatten|_unsafe_view|unsqueeze|view\w*)"
)
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def step_shares(events: Iterable[Event]) -> dict[str, float]:
    """Microseconds by row of ``ROWS``, which add up to those from the first step to the last.

    On a CPU an operation takes what it spends outside the operations that it calls. Where a GPU
    computes, it takes what the kernels do that it launched; an exchange counts where nothing else
    runs, and ``BETWEEN`` is what the GPU waits.

    Args:
        events: Of a trace in Chrome's format, whose steps are regions.

    Raises:
        ValueError: no step is marked.
    """
    whole = [event for event in events if event.get("ph") == "X"]
    steps = [event for event in whole if event["name"] == Region.STEP]
    if not steps:
        raise ValueError("the trace has no step")
    begin, end, main = steps[0]["ts"], _end(steps[-1]), steps[0]["tid"]
    times = dict.fromkeys(ROWS, 0.0)
    heads: set[int] = set()
    launched: dict[int, str] = {}
    # The main thread first: what it computes forward says of what another does backward.
    for thread in sorted({e["tid"] for e in whole if _on_host(e)}, key=lambda t: t != main):
        inside = [e for e in whole if _on_host(e) and e["tid"] == thread and begin <= e["ts"] < end]
        for event, kind, own in _nested(inside, heads):
            launched[event.get("args", {}).get("External id", -1)] = kind
            times[kind] += own if thread == main else 0.0
    kernels = [event for event in whole if event.get("cat") in _ON_DEVICE]
    if kernels:
        times = dict.fromkeys(ROWS, 0.0)
        spans = [
            (max(e["ts"], begin), min(_end(e), end), _kind_of_kernel(e, launched)) for e in kernels
        ]
        for kind, time in _alone([span for span in spans if span[0] < span[1]]):
            times[kind] += time
    times[BETWEEN] += end - begin - sum(times.values())
    return times


def _end(event: Event) -> float:
    return float(event["ts"] + event["dur"])


def _on_host(event: Event) -> bool:
    return event.get("cat") in ("cpu_op", "user_annotation")


def _nested(events: Sequence[Event], heads: set[int]) -> Iterator[tuple[Event, str, float]]:
    """The kind of each event of one thread, and its time outside the events in it.

    ``heads`` collects the numbers by which the backward pass knows the operations of the head.
    """
    events = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    kinds: list[str] = []
    own: list[float] = []
    around: list[int] = []
    for number, event in enumerate(events):
        while around and event["ts"] >= _end(events[around[-1]]):
            around.pop()
        kinds.append(_kind(event, kinds[around[-1]] if around else BETWEEN, heads))
        own.append(event["dur"])
        if around:
            own[around[-1]] -= event["dur"]
        around.append(number)
    return zip(events, kinds, own, strict=True)


def _kind(event: Event, around: str, heads: set[int]) -> str:
    """Of an event in one that is of kind ``around``."""
    name, arguments = event["name"], event.get("args", {})
    operation, backward = arguments.get("Sequence number"), arguments.get("Fwd thread id")
    if name == Region.EXCHANGE or (name in ROWS and around == BETWEEN):
        return str(name)
    if backward and operation in heads:
        return Region.HEAD
    if around == Region.HEAD and operation is not None and not backward:
        heads.add(operation)
    if around not in (ELEMENTWISE, BETWEEN):
        return around
    for kind, pattern in _KINDS.items():
        if pattern.search(name):
            return kind
    if _FUSED.fullmatch(name):
        return ELEMENTWISE
    computes = "::" in name and "autograd::" not in name and not _VIEWS.fullmatch(name)
    return ELEMENTWISE if computes else BETWEEN


def _kind_of_kernel(event: Event, launched: Mapping[int, str]) -> str:
    kind = launched.get(event.get("args", {}).get("External id", -1), BETWEEN)
    if kind == BETWEEN:
        return Region.EXCHANGE if "nccl" in event["name"].lower() else ELEMENTWISE
    return kind


def _alone(spans: Sequence[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """The time of each kind; where several run, of the first by ``ROWS`` that is no exchange."""
    edges = sorted(
        edge for start, stop, kind in spans for edge in ((start, 1, kind), (stop, -1, kind))
    )
    running: Counter[str] = Counter()
    before = edges[0][0]
    for at, change, kind in edges:
        if active := [row for row in ROWS if running[row]]:
            yield min(active, key=lambda row: row == Region.EXCHANGE), at - before
        running[kind] += change
        before = at
