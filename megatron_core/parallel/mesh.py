"""The ranks of a run, joined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_core.errors import ReforgeError
from megatron_core.parallel.layout import Layout


@dataclass(frozen=True)
class Mesh:
    """This process among the ranks; ``data_group`` is None when it is alone."""

    layout: Layout
    rank: int
    device: torch.device
    data_group: dist.ProcessGroup | None

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what only one should."""
        return self.rank == 0

    def owned_shards(self, grid_data: int) -> range:
        """The aligned block of data shards this rank computes."""
        block = grid_data // self.layout.data
        return range(self.rank * block, (self.rank + 1) * block)


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
    # cuBLAS is deterministic only with a fixed workspace, read when its handle is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise ReforgeError(f"torch refused {threads} threads and runs {torch.get_num_threads()}")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory costs 15 % of a step and changes no bit.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    local = int(os.environ.get("LOCAL_RANK", "0"))
    here = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
    if layout.ranks == 1:
        yield Mesh(layout, 0, here, None)
        return
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Mesh(layout, dist.get_rank(), here, dist.group.WORLD)
    finally:
        dist.destroy_process_group()
