"""Chunks against ``torch.distributed.checkpoint`` itself."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from megatron_core.chunks import Chunk, StoredChunks, write_chunks
from megatron_core.errors import IntegrityError

STACK = torch.arange(24.0).view(3, 4, 2)


def write_stack(folder: Path) -> None:
    chunks = [Chunk("stack", (3, 4, 2), (n, 0, 0), (1, 4, 2), torch.float32) for n in range(3)]
    content = io.BytesIO()
    torch.save([1, 2], content)
    write_chunks(
        folder, chunks, lambda chunk: STACK[chunk.offsets[0]][None],
        {"extra": content.getvalue()},
    )  # fmt: skip


def test_the_library_loads_what_is_written(tmp_path: Path) -> None:
    write_stack(tmp_path)
    state = {"stack": torch.zeros(3, 4, 2)}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(state["stack"], STACK)


def test_any_box_of_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    half = STACK.bfloat16()
    dcp.save({"stack": STACK, "half": half, "step": 3}, checkpoint_id=tmp_path, no_dist=True)
    stored = StoredChunks(tmp_path)
    assert stored.shapes == {"stack": (3, 4, 2), "half": (3, 4, 2)}
    assert stored.dtype("half") == torch.bfloat16
    assert torch.equal(stored.read("half", (1, 0, 1), (2, 3, 1)), half[1:, :3, 1:])
    write_stack(tmp_path / "ours")
    ours = StoredChunks(tmp_path / "ours")
    assert torch.equal(ours.read("stack", (1, 1, 0), (2, 2, 2)), STACK[1:, 1:3])


def test_metadata_that_ask_for_more_are_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(IntegrityError, match="cannot be read"):
        StoredChunks(tmp_path)
    assert not (tmp_path / "ran").exists()
    # A dotted name, by which the system can be reached through what the module imports.
    reached = b"\x80\x04\x8c\x25torch.distributed.checkpoint.metadata\x8c\x09os.system\x93."
    (tmp_path / ".metadata").write_bytes(reached)
    with pytest.raises(IntegrityError, match=r"os\.system is not what"):
        StoredChunks(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match="cannot be read"):
        StoredChunks(tmp_path)
    (tmp_path / ".metadata").unlink()
    with pytest.raises(IntegrityError, match="does not exist"):
        StoredChunks(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_stack(tmp_path)
    (tmp_path / "__0_0.distcp").unlink()
    with pytest.raises(IntegrityError, match=r"stack in .* cannot be read"):
        StoredChunks(tmp_path).read("stack", (0, 0, 0), (1, 1, 1))
