"""What is shown of a conversion: that each tensor's bits are the same on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from megatron_core.conversion.tensor_files import raw_bytes
from megatron_core.conversion.tensors import Link
from megatron_core.errors import IntegrityError
from megatron_core.identity import hash_bytes

CERTIFICATE = "certificate.json"


def compare_tensors(
    links: Iterable[Link], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Both sides as they are stored, tensor by tensor: there and back, to the bit.

    Ours are taken in the dtype of theirs, in which all hashes are.

    Returns:
        A line of the certificate for each tensor of theirs.

    Raises:
        IntegrityError: theirs are not made of ours, or ours not of theirs.
    """
    return [_compare(link, ours, theirs) for link in links]


def _compare(
    link: Link, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> dict[str, Any]:
    whole = theirs[link.theirs].contiguous()
    there, shape, dtype = _hash(whole), whole.shape, whole.dtype
    if link.operation.name == "same":
        del whole  # so that one tensor is in memory, not two
        (name,) = link.ours
        hashes = [_hash(ours[name].to(dtype).contiguous())]
        equal = hashes == [there]
    else:
        parts = [ours[name].to(dtype).contiguous() for name in link.ours]
        hashes = [_hash(part) for part in parts]
        back = link.split(whole)
        equal = _hash(link.operation.join(parts).contiguous()) == there and hashes == [
            _hash(back[name].contiguous()) for name in link.ours
        ]
    if not equal:
        raise IntegrityError(f"{link.theirs} is not bitwise {', '.join(link.ours)}")
    return {
        "operation": link.operation.name,
        "ours": list(link.ours),
        "ours_sha256": hashes,
        "shape": list(shape),
        "theirs": link.theirs,
        "theirs_sha256": there,
    }


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one in dtype, shape and every bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(_as_bytes(a), _as_bytes(b)))


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _hash(tensor: Tensor) -> str:
    """SHA-256 of the raw bytes."""
    return hash_bytes(raw_bytes(tensor))
