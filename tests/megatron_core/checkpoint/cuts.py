"""A state of sharded tensors, and random cuts of it between ranks."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint import Checkpoint, CheckpointSaver, Part, Placement
from megatron_core.optimizer.flat import BLOCK

KINDS = ("weights", "first", "second")

# Shards of less than a block, of exactly one, of some and a rest; split along either axis.
PLACEMENTS = {
    "embedding.weight": Placement(shape=(129, 257)),
    "layers.0.attention.query.weight": Placement(shape=(96, 700), axis=0, shards=2),
    "layers.0.attention.output.weight": Placement(shape=(300, 256), axis=1, shards=4),
    "layers.0.ffn.up.weight": Placement(shape=(128, 256), axis=0, shards=2),
    "norm.weight": Placement(shape=(48,)),
    "scale": Placement(shape=()),
}

State = dict[tuple[str, str, int], Tensor]


def some_state(seed: int = 0) -> State:
    """Every grid shard, flat, by kind, tensor and number; with numbers that are no numbers."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        (kind, name, shard): torch.randn(placement.shard_elements, generator=generator)
        for kind in KINDS
        for name, placement in PLACEMENTS.items()
        for shard in range(placement.shards)
    }
    state["second", "norm.weight", 0][:4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    return state


def empty_state() -> State:
    """A state to load into."""
    return {key: torch.zeros_like(data) for key, data in some_state().items()}


def cut(state: State, seed: int, ranks: int) -> list[list[Part]]:
    """The parts of each rank: runs of blocks, cut and given to ranks at random."""
    draw = random.Random(seed)
    owned: list[list[Part]] = [[] for _ in range(ranks)]
    for (kind, name, shard), data in state.items():
        inner = [e for e in range(BLOCK, len(data), BLOCK) if draw.random() < 0.6]
        for start, end in zip([0, *inner], [*inner, len(data)], strict=True):
            owned[draw.randrange(ranks)].append(Part(kind, name, shard, start, data[start:end]))
    return owned


def leaf(placement: Placement, data: Tensor) -> str:
    """The leaf of a grid shard, as it is defined."""
    blocks = [data[start : start + BLOCK].numpy().tobytes() for start in range(0, len(data), BLOCK)]
    digests = b"".join(hashlib.sha256(block).digest() for block in blocks)
    return hashlib.sha256(f"float32 {list(placement.shard_shape)}\n".encode() + digests).hexdigest()


def begin(saver: CheckpointSaver, path: Path, parts: list[Part], step: int = 7) -> None:
    """Begin to save ``parts``."""
    saver.save(
        path, parts, PLACEMENTS, step=step, run="run", model={"kind": "none"},
        layout={"data": 1, "schedule": "1f1b"}, scalars={"loss_scale": 1024.0},
    )  # fmt: skip


def save_alone(path: Path, state: State, step: int = 7) -> Checkpoint:
    """Save the whole ``state`` from one process."""
    saver = CheckpointSaver(None)
    begin(saver, path, cut(state, 0, 1)[0], step)
    checkpoint = saver.wait()
    assert checkpoint is not None
    return checkpoint


def same(a: State, b: State) -> bool:
    """Whether two states have the same bits."""
    return a.keys() == b.keys() and all(
        torch.equal(a[key].view(torch.int32), b[key].view(torch.int32)) for key in a
    )


def change_byte(file: Path) -> None:
    """Flip a bit in the middle of ``file``."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
