"""Datasets through the datasets library, from a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_core.config.corpus.sources import HubDataset
from megatron_core.data.sources import open_source
from megatron_core.errors import CorpusError


def test_rows_are_streamed_and_columns_kept(tmp_path: Path) -> None:
    rows = [{"body": "a", "n": 1, "title": "T"}, {"body": None, "n": 2, "title": None},
            {"body": "c", "n": 3, "title": None}]  # fmt: skip
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = HubDataset(kind="hub", name=str(folder), text="body", metadata=["title"], id="n")
    first, broken, last = open_source(config)
    assert (first.text, first.metadata) == ("a", {"title": "T", "record": 1})  # type: ignore[union-attr]
    assert str(broken) == "data:2: `body` is a NoneType, not a string"
    assert (last.text, last.metadata) == ("c", {"record": 3})  # type: ignore[union-attr]
    with pytest.raises(CorpusError, match="has no column `text`; its columns are: body, n, title"):
        list(open_source(config.model_copy(update={"text": "text"})))
    with pytest.raises(CorpusError, match=r"nowhere.*check the name and the network"):
        list(open_source(config.model_copy(update={"name": str(tmp_path / "nowhere")})))
