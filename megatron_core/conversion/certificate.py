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
    lines = []
    for link in links:
        whole = theirs[link.theirs].contiguous()
        parts = [ours[name].to(whole.dtype).contiguous() for name in link.ours]
        there = _hash(whole)
        hashes = [_hash(part) for part in parts]
        if link.operation.name == "same":
            equal = hashes == [there]
        else:
            joined = _hash(link.operation.join(parts).contiguous())
            back = link.split(whole)
            equal = joined == there and hashes == [
                _hash(back[name].contiguous()) for name in link.ours
            ]
        if not equal:
            raise IntegrityError(f"{link.theirs} is not bitwise {', '.join(link.ours)}")
        lines.append(
            {
                "operation": link.operation.name,
                "ours": list(link.ours),
                "ours_sha256": hashes,
                "shape": list(whole.shape),
                "theirs": link.theirs,
                "theirs_sha256": there,
            }
        )
    return lines


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
