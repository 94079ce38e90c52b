"""Copies of the live state in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megatron_core.checkpoint.parts import Part
from megatron_core.optimizer.flat import BLOCK

# Elements written as one chunk, 16 MiB: a rank that needs a little of it reads all of it.
_CHUNK = 256 * BLOCK


class Snapshot:
    """Copies parts into buffers that the next snapshot uses again."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def take(self, parts: Sequence[Part]) -> list[Part]:
        """Copy ``parts`` of any device, cut into chunks; the copies hold until the next call."""
        chunks = [
            replace(part, offset=part.offset + i * _CHUNK, data=piece)
            for part in parts
            for i, piece in enumerate(torch.split(part.data.detach(), _CHUNK))
        ]
        if [chunk.data.shape for chunk in chunks] != [buffer.shape for buffer in self._buffers]:
            # Each has storage of its own: of a view, the library would write a second copy.
            self._buffers = [
                torch.empty(chunk.data.shape, dtype=chunk.data.dtype, pin_memory=chunk.data.is_cuda)
                for chunk in chunks
            ]
        for chunk, buffer in zip(chunks, self._buffers, strict=True):
            buffer.copy_(chunk.data, non_blocking=True)
        for device in {chunk.data.device for chunk in chunks if chunk.data.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return [
            replace(chunk, data=buffer) for chunk, buffer in zip(chunks, self._buffers, strict=True)
        ]
