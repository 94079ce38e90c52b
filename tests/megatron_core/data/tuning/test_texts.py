"""Labelled texts: one set in every format, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.data.tuning.texts import LabelledText, check_labels, class_names, read_texts
from megatron_core.errors import CorpusError

RECORDS = [
    {"text": 'Kein "Fieber",\nnur 漢', "other": "b\t", "kind": "no", "score": "0.5", "who": "p1"},
    {"text": "c d", "other": "e", "kind": "yes", "score": "1e1", "who": "p2"},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """``records`` in the format that the suffix says."""
    if path.name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            quoting = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
            table = csv.writer(file, delimiter=delimiter, quoting=quoting, quotechar=None
                               if path.suffix == ".tsv" else '"')  # fmt: skip
            table.writerow(list(records[0]))
            table.writerows([list(record.values()) for record in records])
        return path
    if path.suffix == ".json":
        text = json.dumps({str(n): record for n, record in enumerate(records)})
    else:
        text = "".join(json.dumps(record) + "\n\n" for record in records)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv"])
def test_one_set_in_every_format(tmp_path: Path, name: str) -> None:
    records = RECORDS
    if name == "a.tsv":  # has no way to write these
        records = [{k: v.replace("\n", " ").replace("\t", "") for k, v in r.items()}
                   for r in RECORDS]  # fmt: skip
    path = write(tmp_path / name, records)
    found = read_texts(path, text="text", second="other", label="kind", score="score", group="who")
    assert [(t.text, t.second, t.label, t.score, t.group) for t in found.items] == [
        (r["text"], r["other"], r["kind"], float(r["score"]), r["who"]) for r in records
    ]
    lines = {"a.jsonl": (1, 3), "a.jsonl.gz": (1, 3), "a.csv": (2, 4), "a.tsv": (2, 3)}
    expected = [f"{name}:{n}" for n in lines[name]] if name in lines else ["0", "1"]
    assert [t.id for t in found.items] == expected


def test_fields_within_fields_lists_and_forms(tmp_path: Path) -> None:
    record = {"a": {"b": ["x", "y"]}, "c.d": "z", "n": 3}
    path = write(tmp_path / "a.jsonl", [record])
    assert read_texts(path, text="a.b").items == (LabelledText("a.jsonl:1", "x y"),)
    assert read_texts(path, text=["c.d", "n"]).items[0].text == "z 3"
    assert read_texts(path, text="Q: {c.d}\n{a.b}?").items[0].text == "Q: z\nx y?"


def test_the_layout_of_pubmedqa(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"17": {"QUESTION": "q", "CONTEXTS": ["c", "d"], "final": "maybe"}}))
    found = read_texts(path, text="QUESTION", second="CONTEXTS", label="final").items
    assert found == (LabelledText("17", "q", "c d", "maybe"),)


def test_labels_to_skip_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*RECORDS, {"text": "t", "kind": "-"}])
    found = read_texts(path, text="text", label="kind", skip=["-"])
    assert len(found.items) == 2
    assert found.counts == {"skipped": 1}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a.jsonl has no records"),
        (b'{"text": "a"}\n{"txt": "b"}\n', r"a.jsonl:2: no field 'text'; there are txt"),
        (b'{"text": "a"}\n{"text": \n', r"a.jsonl:2: no valid JSON"),
        (b'{"text": "a"}\n[1]\n', r"a.jsonl:2: a list, not an object"),
        (b'{"text": " "}\n', r"a.jsonl:1: field 'text' is empty"),
        (b'{"text": true}\n', r"a.jsonl:1: field 'text' holds a bool, not text"),
        (b'{"text": "\xff"}\n', "a.jsonl is no UTF-8 at byte 10"),
        (b'{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n', "the id '1' comes more than once"),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=problem):
        read_texts(tmp_path / "a.jsonl", text="text", id="id" if b'"id"' in content else None)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "text,score\na,1\nb\n", r"a.csv:3: 1 cells, and the header has 2: text, score"),
        ("a.csv", "text,text\na,1\n", r"a.csv:1: the header names 'text' twice"),
        ("a.csv", 'text,score\n"a,1\n', r"a.csv:2: no valid table"),
        ("a.csv", "text,score\na,high\n", r"a.csv:2: field 'score' is 'high', not a number"),
        ("a.csv", "text,score\na,nan\n", r"a.csv:2: .*not a finite number"),
        ("a.xml", "", r"the suffix says no format; allowed are .jsonl, .json, .csv, .tsv"),
    ],
)
def test_names_what_is_wrong_in_tables(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=problem):
        read_texts(tmp_path / name, text="text", score="score")


def test_what_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a.jsonl does not exist"):
        read_texts(tmp_path / "a.jsonl", text="text")
    whole = write(tmp_path / "a.jsonl.gz", RECORDS * 50).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(CorpusError, match=r"a.jsonl.gz cannot be read"):
        read_texts(tmp_path / "a.jsonl.gz", text="text")


def test_classes() -> None:
    assert class_names(["b", "a", "b"], "x") == ("a", "b")
    with pytest.raises(CorpusError, match="x has only the class 'b': at least two"):
        class_names(["b", "b"], "x")
    with pytest.raises(CorpusError, match="x: 1 examples have no label"):
        class_names(["b", None], "x")
    check_labels(["b", "a"], ("a", "b"), "test")
    with pytest.raises(CorpusError, match="test has the label 'c'; allowed are a, b"):
        check_labels(["b", "a", "c"], ("a", "b"), "test")
    with pytest.raises(CorpusError, match="test has no example of a, of a, b"):
        check_labels(["b"], ("a", "b"), "test")
