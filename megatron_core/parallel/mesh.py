"""The ranks of a run, joined."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives import ContextSpan, Span, merge
from megatron_core.config import Grid
from megatron_core.errors import ReforgeError
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.rendezvous import join_ranks

# The axes of the ranks, slowest first: neighbours share a tensor. ``expert`` is the inner part of
# the data dimension.
_AXES = ("pipeline", "data", "expert", "context", "tensor")

# Ranks that meet in a collective, by the axes along which they differ.
_GROUPS = {
    "tensor": ("tensor",),
    "context": ("context",),
    "data": ("data", "expert"),
    "expert": ("expert",),
    "expert_data": ("data",),
    "replica": ("data", "expert", "context"),
    "expert_replica": ("data", "context"),
}


@dataclass(frozen=True)
class Mesh:
    """This process among the ranks.

    Attributes:
        layout: Ranks per dimension.
        rank: Number of this one.
        device: Where it computes.
        groups: Process groups by name, only those of more than one rank; ``checkpoint`` holds
            all ranks on the CPU, and so does ``host`` beside GPUs.
        channels: By (sender, receiver), those to and from the neighbours in the pipeline.
    """

    layout: Layout
    rank: int
    device: torch.device
    groups: Mapping[str, dist.ProcessGroup] = field(default_factory=dict)
    channels: Mapping[tuple[int, int], dist.ProcessGroup] = field(default_factory=dict)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what only one should."""
        return self.rank == 0

    @property
    def coordinates(self) -> dict[str, int]:
        """Where this rank is along each axis."""
        return dict(zip(_AXES, _unravel(self.rank, _sizes(self.layout)), strict=True))

    @property
    def pipeline_rank(self) -> int:
        """Which of the layers' ranks this is."""
        return self.coordinates["pipeline"]

    @property
    def data_rank(self) -> int:
        """Which of the data ranks this is."""
        place = self.coordinates
        return place["data"] * self.layout.expert + place["expert"]

    def peer(self, pipeline_rank: int) -> int:
        """The rank that has our place in another part of the pipeline."""
        ranks_each = self.layout.ranks // self.layout.pipeline
        return self.rank + (pipeline_rank - self.pipeline_rank) * ranks_each

    def owned_shards(self, grid_data: int) -> range:
        """The aligned block of data shards this rank computes."""
        return Span(grid_data, self.layout.data, self.data_rank).local

    def merge(self, numbers: Tensor) -> Tensor:
        """Put together ``numbers`` of which each of all ranks filled some, where they are.

        Those on the CPU do not wait for a GPU.
        """
        if self.layout.ranks == 1:
            return numbers
        group = dist.group.WORLD if numbers.is_cuda else self.groups.get("host", dist.group.WORLD)
        return merge(numbers, group)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on some rank."""
        return bool(self.merge(torch.tensor([int(flag)]))[0])

    def tensor(self, grid: Grid) -> Span:
        """The tensor shards of ``grid`` seen from here."""
        place = self.coordinates["tensor"]
        return Span(grid.tensor, self.layout.tensor, place, self.groups.get("tensor"))

    def context(self, grid: Grid) -> ContextSpan:
        """The context chunks of ``grid`` seen from here."""
        place = self.coordinates["context"]
        return ContextSpan(grid.context, self.layout.context, place, self.groups.get("context"))

    def expert(self) -> Span:
        """The neighbouring data ranks that share the experts."""
        ranks = self.layout.expert
        return Span(ranks, ranks, self.coordinates["expert"], self.groups.get("expert"))


def _sizes(layout: Layout) -> tuple[int, ...]:
    outer = layout.data // layout.expert
    return layout.pipeline, outer, layout.expert, layout.context, layout.tensor


def _unravel(rank: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    places = []
    for size in reversed(sizes):
        rank, place = divmod(rank, size)
        places.append(place)
    return tuple(reversed(places))


@contextmanager
def open_mesh(layout: Layout, device: str, threads: int) -> Iterator[Mesh]:
    """Join the ranks for the length of the block: NCCL on GPUs, gloo on CPUs.

    Fixes what the numbers depend on: the thread count, deterministic kernels, full fp32 products.

    Raises:
        ReforgeError: the device is not there, or the thread count cannot be had.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ReforgeError(
            "the recipe asks for device: cuda, but torch finds no GPU here: install a CUDA build "
            "of torch, or set device: cpu (another recipe, with other bits)"
        )
    _fix_numbers(threads)
    here = _own_gpu() if device == "cuda" else torch.device("cpu")
    if layout.ranks == 1:
        yield Mesh(layout, 0, here)
        return
    join_ranks("nccl" if device == "cuda" else "gloo")
    try:
        rank = dist.get_rank()
        groups = _open_groups(layout)
        if device == "cuda":
            groups["host"] = dist.new_group(backend="gloo")
        yield Mesh(layout, rank, here, groups, _open_channels(layout, rank))
    finally:
        dist.destroy_process_group()


def _own_gpu() -> torch.device:
    """The GPU of this rank: by its number on this machine, or the only one it may see."""
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    # `srun --gpus-per-task=1` shows each task a GPU of its own, always as number 0.
    number = 0 if count == 1 and "SLURM_PROCID" in os.environ else local
    if number >= count:
        raise ReforgeError(
            f"rank {os.environ.get('RANK', '0')} is number {local} on this machine, which has "
            f"{count} GPUs: choose a layout of fewer ranks, or start fewer per machine"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _fix_numbers(threads: int) -> None:
    # cuBLAS is deterministic only with a fixed workspace, read when its handle is made.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise ReforgeError(f"torch refused {threads} threads and runs {torch.get_num_threads()}")
    # The same as use_deterministic_algorithms, without the second that importing a compiler takes.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory costs 15 % of a step and changes no bit.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def _open_groups(layout: Layout) -> dict[str, dist.ProcessGroup]:
    """The groups of more than one rank, made by all ranks in one order."""
    sizes = _sizes(layout)
    places = [_unravel(rank, sizes) for rank in range(layout.ranks)]
    groups: dict[str, dist.ProcessGroup] = {}
    opened: dict[tuple[tuple[int, ...], ...], dist.ProcessGroup] = {}
    for name, axes in _GROUPS.items():
        by_rest: dict[tuple[int, ...], list[int]] = {}
        for rank, place in enumerate(places):
            rest = tuple(p for p, axis in zip(place, _AXES, strict=True) if axis not in axes)
            by_rest.setdefault(rest, []).append(rank)
        sets = tuple(tuple(members) for members in by_rest.values())
        if len(sets[0]) == 1:
            continue
        if sets not in opened:
            opened[sets], _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
                [list(members) for members in sets]
            )
        groups[name] = opened[sets]
    groups["checkpoint"] = dist.new_group(backend="gloo")
    return groups


def _open_channels(layout: Layout, rank: int) -> dict[tuple[int, int], dist.ProcessGroup]:
    """A group for each direction between neighbours in the pipeline; all ranks make all of them.

    NCCL carries out the sends and receives of one group in turn: were both directions in one, a
    send could wait for a receive that comes after the peer's own send.
    """
    if layout.pipeline == 1:
        return {}
    stage = layout.ranks // layout.pipeline
    pairs = [(here, (here + stage) % layout.ranks) for here in range(layout.ranks)]
    ahead = [pair for pair in pairs if pair[0] < pair[1] or layout.stages > 1]
    ways = sorted({*ahead, *((b, a) for a, b in ahead)})
    opened = {way: dist.new_group(list(way)) for way in ways}
    return {way: group for way, group in opened.items() if rank in way}
