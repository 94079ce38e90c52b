"""Relations: which pairs are candidates, and where their marks stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_core.data.tuning.relations import read_pairs
from megatron_core.errors import CorpusError

TEXT = "Fever. Gave aspirin for pain. It helped. Much later, ibuprofen. Then rash."
PLACES = {
    name: (TEXT.index(word), TEXT.index(word) + len(word), kind)
    for name, word, kind in [
        ("T1", "aspirin", "Drug"), ("T2", "pain", "Reason"),
        ("T3", "ibuprofen", "Drug"), ("T4", "rash", "Reason"),
    ]
}  # fmt: skip


def write(folder: Path, relations: list[tuple[str, str, str]], brat: bool) -> Path:
    if brat:
        (folder / "set").mkdir(exist_ok=True)
        (folder / "set/note.txt").write_text(TEXT)
        lines = [f"{id}\t{kind} {a} {b}\t{TEXT[a:b]}" for id, (a, b, kind) in PLACES.items()]
        lines += [f"R{n}\t{k} Arg1:{h} Arg2:{t}" for n, (k, h, t) in enumerate(relations)]
        (folder / "set/note.ann").write_text("\n".join(lines))
        return folder / "set"
    entities = [{"id": i, "start": a, "end": b, "type": k} for i, (a, b, k) in PLACES.items()]
    named: list[dict[str, Any]] = [{"type": k, "head": h, "tail": t} for k, h, t in relations]
    record = {"text": TEXT, "entities": entities, "relations": named, "id": "note"}
    (folder / "a.jsonl").write_text(json.dumps(record))
    return folder / "a.jsonl"


@pytest.mark.parametrize("brat", [True, False])
def test_pairs(tmp_path: Path, brat: bool) -> None:
    read = read_pairs(write(tmp_path, [("for", "T1", "T2")], brat))
    by_pair = {one.id.rpartition("/")[2]: one for one in read.items}
    # A pair from one drug to the reason two sentences on has three sentences, which is too far.
    assert list(by_pair) == ["T1-T2", "T3-T4"]
    assert read.counts == {"related": 1, "unrelated": 1}
    one = by_pair["T1-T2"]
    assert one.text == "Gave @ * Drug * aspirin @ for # ^ Reason ^ pain #."
    assert (one.text[one.first], one.text[one.second]) == ("@", "#")
    assert (one.first, one.second) == (5, one.text.index("#"))
    assert one.label == "for"
    assert by_pair["T3-T4"].label == "none"


def test_the_tail_may_come_first(tmp_path: Path) -> None:
    path = write(tmp_path, [("treated by", "T2", "T1")], brat=False)
    one = next(p for p in read_pairs(path).items if p.label != "none")
    assert one.text == "Gave # ^ Drug ^ aspirin # for @ * Reason * pain @."
    assert one.types == ("Reason", "Drug")
    assert one.text[one.first] == "@"


def test_limits_and_what_falls_outside(tmp_path: Path) -> None:
    path = write(tmp_path, [("for", "T1", "T2"), ("for", "T1", "T4"), ("same", "T1", "T3"),
                            ("other", "T1", "T2"), ("self", "T4", "T4")], brat=False)  # fmt: skip
    types = [("Drug", "Reason")]
    near = read_pairs(path, types=types, sentences=1)
    assert near.counts == {
        "other_types_left_out": 1, "overlapping_left_out": 1, "related": 1,
        "second_label_left_out": 1, "too_far_left_out": 1,
    }  # fmt: skip
    far = read_pairs(path, types=types, sentences=9)
    assert far.counts["related"] == 2
    assert far.counts["unrelated"] == 2  # T3 with each reason
    short = read_pairs(path, types=types, sentences=9, characters=20)
    assert [one.id.rpartition("/")[2] for one in short.items] == ["T1-T2", "T3-T4"]
    # The one relation whose entities' starts are further apart than that is counted all the same.
    assert short.counts["too_far_left_out"] == 2


def test_without_candidates(tmp_path: Path) -> None:
    path = write(tmp_path, [], brat=False)
    with pytest.raises(CorpusError, match="has no relations in 1 texts"):
        read_pairs(path)
    with pytest.raises(CorpusError, match="has no two entities of X → Y within the limits"):
        read_pairs(path, types=[("X", "Y")])
