"""Documents found among lines that look like them; frames, differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from megatron_core.config import CanariesConfig
from megatron_core.data.canaries import Canaries
from megatron_core.data.datasets.spans import DocumentSpan, Frame, read_spans
from megatron_core.data.datasets.windows import open_streams
from megatron_core.data.documents import Document, write_lines, write_shard
from megatron_core.data.indexed import IndexedWriter, rows_path
from megatron_core.data.provenance import Artifacts, trace_spans
from megatron_core.errors import IntegrityError
from megatron_core.files import write_json

TEXTS = ["a b c", "", "c a", "b b b b"]
ROWS = [0, 3, 10, 11]
WORDS = {"<end>": 0, "a": 1, "b": 2, "c": 3, "<cls>": 4, "<sep>": 5}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Four documents; ingest had a control character in the last and lines that mislead."""
    made = Artifacts.below(tmp_path)
    backend = Backend(models.WordLevel(WORDS, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Metaspace()
    made.tokenizer.mkdir()
    backend.save(str(made.tokenizer / "tokenizer.json"))
    write_json(made.tokenizer / "tokenizer_config.json", {"eos_token": "<end>"})
    documents = [Document("s", row, text) for row, text in zip(ROWS, TEXTS, strict=True)]
    for folder in (
        made.curate / "documents",
        made.dedup / "documents",
        made.decontaminate / "train",
    ):
        write_shard(folder / "00000.jsonl", documents)
    nested = {"like": {"id": "s/11", "z": 1}, "origin": {"file": '"kept":"s/0"', "line": 1}}
    hidden = Document("s", 99, 'b\n{"id":"s/11",', nested)
    read = [*documents[:3], Document("s", 11, "b b\x00 b b", {"title": "T"}), hidden]
    write_shard(made.ingest / "documents/00000.jsonl", read)
    lines = [
        {"id": "s/5", "kept": "s/0", "kind": "near", "similarity": 0.9, "text": '"kept":"s/11"'},
        {"id": "s/6", "kept": "s/01", "kind": "near", "similarity": 0.9, "text": ""},
        {"id": "s/7", "kept": "s/0", "kind": "exact", "similarity": 1.0, "text": ""},
    ]
    write_lines(made.dedup / "duplicates.jsonl", lines)
    prefix = made.tokenize / "train/s_text_document"
    with IndexedWriter(prefix, np.dtype("<u2")) as writer:
        for text in TEXTS:
            writer.write([*(WORDS[word] for word in text.split()), 0])
    np.save(rows_path(prefix), np.array(ROWS))
    return made


def test_spans_are_found_in_their_documents(artifacts: Artifacts) -> None:
    streams = open_streams(artifacts.tokenize / "train")
    # a b c | end of the first, the empty one | c a | b b b b
    spans = [DocumentSpan("s", 2, 2), DocumentSpan("s", 5, 3), DocumentSpan("s", 8, 4)]
    first, second, third = trace_spans(spans, streams, artifacts)
    assert (first.id, first.tokens, first.positions) == ("s/0", (2, 4), (0, 2))
    assert (second.id, second.tokens, second.positions) == ("s/10", (0, 3), (2, 5))
    assert (third.id, third.tokens, third.document_tokens) == ("s/11", (0, 4), 5)
    assert [duplicate["id"] for duplicate in first.duplicates] == ["s/5", "s/7"]
    assert second.duplicates == third.duplicates == []
    assert first.curation is None
    assert third.curation is not None
    assert third.curation.diff == ["-b b\x00 b b", "+b b b b"]
    assert third.metadata == {"title": "T"}
    (end,) = trace_spans([DocumentSpan("s", 3, 1)], streams, artifacts)
    assert (end.id, end.tokens, end.text) == ("s/0", (3, 4), "<end>")


@pytest.mark.parametrize("kind", ["whole", "each_document", "pair"])
def test_positions_count_the_frame(artifacts: Artifacts, kind: str) -> None:
    streams = open_streams(artifacts.tokenize / "train")
    spans = [DocumentSpan("s", 0, 4), DocumentSpan("s", 5, 3)]
    frame = Frame(4, 5, each_document=kind == "each_document", pair=kind == "pair")
    tokens = read_spans(streams, [spans], 12, frame)[0][0]
    for found, span in zip(trace_spans(spans, streams, artifacts, frame=frame), spans, strict=True):
        there = streams["s"].tokens[span.first : span.first + span.tokens]
        assert tokens[slice(*found.positions)].tolist() == there.tolist()


def test_long_differences_are_short(artifacts: Artifacts) -> None:
    shard = artifacts.ingest / "documents/00000.jsonl"
    lines = [f"{n} " + "x" * 500 for n in range(5000)]
    write_shard(shard, [Document("s", 0, "\n".join(lines))])
    streams = open_streams(artifacts.tokenize / "train")
    (found,) = trace_spans([DocumentSpan("s", 0, 2)], streams, artifacts)
    assert found.curation is not None
    assert len(found.curation.diff) == 21
    assert max(map(len, found.curation.diff)) < 200


def test_rows_that_do_not_fit_are_refused(artifacts: Artifacts) -> None:
    streams = open_streams(artifacts.tokenize / "train")
    path = rows_path(artifacts.tokenize / "train/s_text_document")
    np.save(path, np.arange(3))
    with pytest.raises(IntegrityError, match="3 rows for 4 documents"):
        trace_spans([DocumentSpan("s", 0, 2)], streams, artifacts)
    np.save(path, np.arange(4))  # fitting, but those of other documents
    with pytest.raises(IntegrityError, match="does not hold s/2"):
        trace_spans([DocumentSpan("s", 5, 2)], streams, artifacts)
    path.unlink()
    with pytest.raises(IntegrityError, match="run `reforge tokenize` again"):
        trace_spans([DocumentSpan("s", 0, 2)], streams, artifacts)


def test_a_canary_is_told_as_one(artifacts: Artifacts) -> None:
    config = CanariesConfig(source="s", format="a b # # c", copies=[1, 2], count=1)
    Canaries(config).write(artifacts.tokenize)
    _, twice = Canaries(config).planted()
    prefix = artifacts.tokenize / "train/s_text_document"
    tokens = [WORDS.get(word, 0) for word in twice.text.split()]
    with IndexedWriter(prefix, np.dtype("<u2")) as writer:
        writer.write([WORDS["c"], WORDS["a"], 0])
        writer.write([*tokens, 0])
    np.save(rows_path(prefix), np.array([10, -2]))
    streams = open_streams(artifacts.tokenize / "train")
    real, canary = trace_spans(
        [DocumentSpan("s", 0, 3), DocumentSpan("s", 3, 4)], streams, artifacts
    )
    assert (real.id, real.planted) == ("s/10", None)
    assert (canary.id, canary.row, canary.planted, canary.split) == ("s/-2", -2, 2, "train")
    assert (canary.origin, canary.curation, canary.duplicates) == (None, None, [])
    np.save(rows_path(prefix), np.array([10, -3]))
    with pytest.raises(IntegrityError, match="no canary of row -3"):
        trace_spans([DocumentSpan("s", 3, 4)], streams, artifacts)
    np.save(rows_path(prefix), np.array([10, -2]))
    other = config.model_copy(update={"format": "b a # # c"})
    Canaries(other).write(artifacts.tokenize)
    with pytest.raises(IntegrityError, match="does not give the tokens"):
        trace_spans([DocumentSpan("s", 3, 4)], streams, artifacts)
