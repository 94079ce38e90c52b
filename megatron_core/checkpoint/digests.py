"""Hashes of grid shards that do not depend on which rank owns which blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from megatron_core.checkpoint.parts import Part, Placement, split_key
from megatron_core.errors import IntegrityError
from megatron_core.optimizer.flat import BLOCK

_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True)
class OwnedDigests:
    """What one rank says of its parts.

    Of shards that it owns whole the leaf; of others ``(first block, digests of the blocks)``.
    """

    leaves: dict[str, str]
    runs: dict[str, list[tuple[int, bytes]]]
    placements: dict[str, Placement]

    @classmethod
    def of(cls, parts: Sequence[Part], placements: Mapping[str, Placement]) -> OwnedDigests:
        """Hash ``parts``, which are on the CPU."""
        runs: dict[str, list[tuple[int, bytes]]] = {}
        for part in parts:
            runs.setdefault(part.key, []).append((part.offset // BLOCK, block_digests(part.data)))
        leaves = {}
        for key in list(runs):
            leaf = combine_digests(key, placements[split_key(key)[1]], runs[key])
            if leaf is not None:
                leaves[key] = leaf
                del runs[key]
        return cls(leaves, runs, {part.tensor: placements[part.tensor] for part in parts})


def merge_digests(ranks: Sequence[OwnedDigests]) -> tuple[dict[str, str], dict[str, Placement]]:
    """The leaves of all grid shards and the placements of their tensors, from what each rank owns.

    Raises:
        IntegrityError: a block has no owner or two, or placements differ between ranks.
    """
    placements: dict[str, Placement] = {}
    leaves: dict[str, str] = {}
    runs: dict[str, list[tuple[int, bytes]]] = {}
    for rank in ranks:
        for tensor, placement in rank.placements.items():
            if placements.setdefault(tensor, placement) != placement:
                raise IntegrityError(
                    f"{tensor} is {placements[tensor]} on one rank and {placement} on another"
                )
        for key in rank.leaves:
            if key in leaves:
                raise IntegrityError(f"{key} has two owners: give it to one rank")
        leaves |= rank.leaves
        for key, some in rank.runs.items():
            runs.setdefault(key, []).extend(some)
    for key, everyones in runs.items():
        whole = combine_digests(key, placements[split_key(key)[1]], everyones)
        if whole is None or key in leaves:
            owners = "no owner" if whole is None else "two owners"
            raise IntegrityError(f"some blocks of {key} have {owners}: give each to one rank")
        leaves[key] = whole
    for kind, tensor in {split_key(key)[:2] for key in leaves}:
        for shard in range(placements[tensor].shards):
            if f"{kind}/{tensor}/{shard}" not in leaves:
                raise IntegrityError(f"{kind}/{tensor}/{shard} has no owner: give it to a rank")
    return dict(sorted(leaves.items())), dict(sorted(placements.items()))


def block_digests(data: Tensor) -> bytes:
    """The SHA-256 digests of the blocks of ``data [n]``, fp32 on the CPU, one after another.

    A digest is over the raw little-endian bytes of ``BLOCK`` elements, of fewer at the end.
    """
    content = data.contiguous().numpy().astype("<f4", copy=False).view("u1").data
    size = BLOCK * data.element_size()
    return b"".join(
        hashlib.sha256(content[start : start + size]).digest()
        for start in range(0, len(content), size)
    )


def combine_digests(
    key: str, placement: Placement, runs: Iterable[tuple[int, bytes]]
) -> str | None:
    """The leaf of grid shard ``key``, or None where ``runs`` lack some of its blocks.

    The leaf is a SHA-256 over dtype, shape and the digests of the shard's blocks, so it is the
    same whoever hashed which of them.

    Args:
        runs: ``(first block, digests)`` as :func:`block_digests` gives them, in any order.

    Raises:
        IntegrityError: a block is there twice.
    """
    leaf = hashlib.sha256(f"float32 {list(placement.shard_shape)}\n".encode())
    end = covered = 0
    for first, digests in sorted(runs):
        if first < end:
            raise IntegrityError(f"block {first} of {key} has two owners: give it to one rank")
        leaf.update(digests)
        end = first + len(digests) // _SIZE
        covered += len(digests) // _SIZE
    return leaf.hexdigest() if covered == -(-placement.shard_elements // BLOCK) else None
