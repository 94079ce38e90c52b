"""Parts of one source put together, against sorting them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_core.data.indexed import IndexedDataset, IndexedWriter
from megatron_core.data.tokenization import parts
from megatron_core.data.tokenization.parts import Part, PartWriter, merge

DTYPE = np.dtype("<u2")


def write_part(prefix: Path, documents: list[tuple[int, int]], batch: int = 2) -> Part:
    """Documents of (row, length) whose tokens all are the row."""
    with PartWriter("s", prefix, DTYPE) as writer:
        for start in range(0, len(documents), batch):
            rows, lengths = np.array(documents[start : start + batch], np.int64).T
            writer.write(rows, np.repeat(rows, lengths).astype(DTYPE), lengths)
        return writer.finish()


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    shards=st.integers(1, 7),
    held=st.tuples(st.integers(1, 9), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_any_parts_are_merged_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    shards: int,
    held: tuple[int, int],
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("parts")
    draw = np.random.default_rng(seed)
    rows = np.sort(draw.choice(1000, len(lengths), replace=False))
    dealt = draw.integers(0, shards, len(lengths))
    documents = list(zip(rows.tolist(), lengths, strict=True))
    shares = [
        [d for d, part in zip(documents, dealt, strict=True) if part == p] for p in range(shards)
    ]
    for share in shares[::2]:
        draw.shuffle(share)  # Some shards are in no order.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_DOCUMENTS", held[0])
        patch.setattr(parts, "_TOKENS", held[1])
        made = [
            write_part(root / f"{n}", [tuple(d) for d in share]) for n, share in enumerate(shares)
        ]
        merged = np.full(len(rows), -1)
        with IndexedWriter(root / "all", DTYPE) as writer:
            merge(made, writer, merged)
    assert merged.tolist() == rows.tolist()
    dataset = IndexedDataset(root / "all")
    assert [one.tolist() for one in dataset] == [[row] * length for row, length in documents]


def test_only_a_window_of_each_part_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        write_part(tmp_path / f"{n}", [(row, 5) for row in range(n, 4000, 4)], batch=500)
        for n in range(4)
    ]
    monkeypatch.setattr(parts, "_DOCUMENTS", 80)
    monkeypatch.setattr(parts, "_TOKENS", 200)
    sizes = []

    class Writer(IndexedWriter):
        def write_documents(self, tokens, lengths) -> None:  # type: ignore[no-untyped-def]
            sizes.append((len(tokens), len(lengths)))
            super().write_documents(tokens, lengths)

    with Writer(tmp_path / "all", DTYPE) as writer:
        merge(made, writer, np.empty(4000, np.int64))
    assert sum(tokens for tokens, _ in sizes) == 20_000
    assert max(tokens for tokens, _ in sizes) <= 200
    assert len(sizes) < 130
