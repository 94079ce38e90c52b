"""Checkpoints of weights that are read one at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_core.checkpoint import (
    StoredWeights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
    verify_checkpoint,
    weights_root,
    whole,
)
from megatron_core.errors import ReforgeError
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from tests.ranks import run_ranks

SHAPES = {"embedding.weight": (50, 8), "layers.0.norm.weight": (8,), "scale": ()}


class Lazy(Mapping[str, Tensor]):
    """Makes each tensor when it is asked for, and knows which are still held."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held: list[weakref.ref[Tensor]] = []

    def __getitem__(self, name: str) -> Tensor:
        assert not [ref for ref in self.held if ref() is not None]
        self.asked.append(name)
        generator = torch.Generator().manual_seed(len(name))
        tensor = torch.randn(SHAPES[name], generator=generator)
        self.held.append(weakref.ref(tensor))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(SHAPES)

    def __len__(self) -> int:
        return len(SHAPES)


def test_it_is_the_checkpoint_of_the_same_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "_CHUNK", 64)
    lazy = Lazy()
    saved = save_weights(tmp_path / "lazy", lazy, SHAPES, run="elsewhere", model={"kind": "x"})
    assert lazy.asked == list(SHAPES)
    tensors = {name: Lazy()[name] for name in SHAPES}
    at_once = save_checkpoint(
        tmp_path / "at_once", {f"weights/{name}": tensor for name, tensor in tensors.items()},
        step=0, run="elsewhere", model={"kind": "x"}, layout={},
    )  # fmt: skip
    assert saved.leaves == at_once.leaves
    assert saved.root == at_once.root
    assert verify_checkpoint(tmp_path / "lazy") == read_checkpoint(tmp_path / "lazy") == saved
    stored = StoredWeights(tmp_path / "lazy")
    assert {name: stored[name].shape for name in stored} == {
        n: torch.Size(s) for n, s in SHAPES.items()
    }
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def root_on_ranks(ranks: int, output: Path) -> None:
    with open_mesh(Layout(data=ranks), "cpu", 1) as mesh:
        lazy = Lazy()
        root = weights_root(lazy, SHAPES, mesh.groups.get("checkpoint"))
        (output / f"{ranks}-{mesh.rank}").write_text(f"{root} {len(lazy.asked)}")


def test_its_root_is_known_without_writing_it(tmp_path: Path) -> None:
    """Ranks share the work, and all of them know the root."""
    saved = save_weights(tmp_path / "lazy", Lazy(), SHAPES, run="elsewhere", model={})
    assert weights_root(Lazy(), SHAPES) == saved.root
    assert run_ranks(root_on_ranks, 2, 2, tmp_path) == [0, 0]
    said = [(tmp_path / f"2-{rank}").read_text() for rank in range(2)]
    assert said == [f"{saved.root} 2", f"{saved.root} 1"]


def test_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    shapes = {**SHAPES, "scale": (2,)}
    with pytest.raises(ReforgeError, match=r"scale is torch\.float32 \[\], not float32 \[2\]"):
        save_weights(tmp_path / "lazy", Lazy(), shapes, run="elsewhere", model={})
    assert list(tmp_path.iterdir()) == []
