"""What a user is told when something is wrong: what, where, what to do; nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.app import main

DOCUMENTS = [
    {"text": f"Document {i} tells of things number {i} and what came of it."} for i in range(40)
]


class Reforge:
    """The command line in a project folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.recipe: dict[str, Any] = {
            "ingest": {"sources": {"mine": {"kind": "jsonl", "path": "data.jsonl"}}}
        }
        self.write_documents(DOCUMENTS)

    def write_documents(self, documents: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (self.folder / "data.jsonl").write_text(lines)

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and what stood on stderr, with line breaks of the console undone."""
        if not (self.folder / "params.yaml").exists():
            (self.folder / "params.yaml").write_text(yaml.safe_dump(self.recipe))
        self._monkeypatch.setattr(sys, "argv", ["reforge", *arguments])
        self._capsys.readouterr()
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        return int(code), " ".join(self._capsys.readouterr().err.split())


@pytest.fixture
def reforge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Reforge:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "REFORGE_LAYOUT"):
        monkeypatch.delenv(name, raising=False)
    return Reforge(tmp_path, monkeypatch, capsys)


def nothing_written(folder: Path) -> bool:
    left = {path.name for path in folder.rglob("*")} - {"params.yaml", "data.jsonl", "artifacts"}
    return not left


WRONG = {
    "misspelt section": ("pretrian.steps=1", "pretrian: unknown key; did you mean `pretrain`?"),
    "misspelt key": ("pretrain.stepz=1", "pretrain.stepz: unknown key; did you mean `steps`?"),
    "wrong type": ("pretrain.steps=many", "pretrain.steps = 'many': should be a valid integer"),
    "out of range": ("decontaminate.heldout=1.5", "decontaminate.heldout = 1.5: should be less"),
    "not of the list": ("pretrain.precision=fp8", "pretrain.precision = 'fp8': should be 'fp32'"),
    "no power of two": ("pretrain.grid.data=3", "pretrain.grid.data = 3: must be a power of two"),
    "grid over the batch": (
        "pretrain.grid.data=64",
        "pretrain.batch.sequences = 32: must be a multiple of grid.data × batch.microbatch",
    ),
    "grid over the heads": ("pretrain.grid.tensor=4", "must divide pretrain.model.kv_heads = 3"),
    "heads that do not divide": ("pretrain.model.heads=7", "must divide hidden = 192"),
    "vocabulary too small": (
        "pretrain.model.vocabulary=100",
        "must hold the tokenizer's 4096 entries",
    ),
    "sequence too long": (
        "pretrain.sequence_length=4096",
        "pretrain.sequence_length = 4096: must not exceed pretrain.model.positions = 512",
    ),
    "warm-up too long": ("pretrain.steps=5", "schedule.warmup_steps = 20: must be below steps"),
    "unknown source": ("pretrain.sources={books: 1}", "is not one of ingest.sources"),
    "source of another kind": (
        "evaluate.question_source=mine",
        "evaluate.question_source = 'mine': must name a source of kind hpo",
    ),
    "unknown kind": (
        "ingest.sources.mine.kind=csv",
        "ingest.sources.mine.kind = 'csv': must be one of",
    ),
    "key of another kind": ("ingest.sources.mine.txt=a", "mine.txt: unknown key; did you mean"),
    "missing key": ("ingest.sources.mine={kind: jsonl}", "mine.path: is required and missing"),
    "value over a section": ("pretrain=3", "pretrain = 3: should be a valid dictionary"),
    "override without value": ("pretrain.steps", "write it as section.key=value"),
}


@pytest.mark.parametrize(("override", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_recipe(reforge: Reforge, override: str, message: str) -> None:
    code, said = reforge("ingest", "--set", override)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (reforge.folder / "artifacts").exists()
    assert nothing_written(reforge.folder)


def test_all_problems_at_once(reforge: Reforge) -> None:
    reforge.recipe["pretrain"] = {"stepz": 1, "model": {"heads": "x"}}
    reforge.recipe["dedup"] = {"ngram": 0}
    code, said = reforge("ingest")
    assert code == 2
    assert "3 problems" in said
    for path in ("pretrain.stepz", "pretrain.model.heads", "dedup.ngram"):
        assert path in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ingest: [", "params.yaml is not valid YAML"),
        ("- a\n- b\n", "must be a mapping of sections"),
        ("ingest: {}\ningest: {}\n", "`ingest` is given twice"),
        ("", "must be a mapping of sections"),
    ],
)
def test_broken_params_file(reforge: Reforge, text: str, message: str) -> None:
    (reforge.folder / "params.yaml").write_text(text)
    code, said = reforge("ingest")
    assert (code, message in said) == (2, True), said


def test_missing_params_file(reforge: Reforge) -> None:
    code, said = reforge("ingest", "--params", "elsewhere.yaml")
    assert code == 2
    assert "elsewhere.yaml does not exist" in said
    assert "reforge init" in said


def test_missing_source_file(reforge: Reforge) -> None:
    reforge.recipe["ingest"]["sources"]["mine"]["path"] = "nowhere/*.jsonl"
    code, said = reforge("ingest")
    assert code == 1
    assert "nowhere/*.jsonl" in said
    assert nothing_written(reforge.folder)


def test_empty_corpus(reforge: Reforge) -> None:
    reforge.write_documents([])
    code, said = reforge("ingest")
    assert (code, "Traceback" in said) == (1, False)
    assert "mine" in said or "data.jsonl" in said
    assert nothing_written(reforge.folder)


def test_broken_lines(reforge: Reforge) -> None:
    with (reforge.folder / "data.jsonl").open("a") as file:
        file.write('{"text": "cut o\n')
    code, said = reforge("ingest")
    assert code == 1
    assert "data.jsonl:41" in said
    assert nothing_written(reforge.folder)


def test_missing_input(reforge: Reforge) -> None:
    code, said = reforge("curate")
    assert code == 1
    assert "artifacts/ingest, which does not exist: run `reforge ingest` first" in said
    assert nothing_written(reforge.folder)


@pytest.fixture
def ingested(reforge: Reforge) -> Reforge:
    """A project whose only source is a file, ingested."""
    code, said = reforge("ingest")
    assert code == 0, said
    return reforge


def test_unreadable_shard(ingested: Reforge) -> None:
    shard = ingested.folder / "artifacts/ingest/documents/00001.jsonl"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    code, said = ingested("curate")
    assert code == 1
    assert "00001.jsonl" in said
    assert not (ingested.folder / "artifacts/curate").exists()


def test_torn_shard(ingested: Reforge) -> None:
    shard = ingested.folder / "artifacts/ingest/documents/00001.jsonl"
    shard.write_bytes(shard.read_bytes()[:-20])
    code, said = ingested("curate")
    assert code == 1
    assert "00001.jsonl has" in said
    assert "run `reforge ingest` again" in said


def test_damaged_manifest(ingested: Reforge) -> None:
    (ingested.folder / "artifacts/ingest.manifest.json").write_text("{")
    code, said = ingested("curate")
    assert code == 1
    assert "ingest.manifest.json is not a manifest" in said


def test_failure_keeps_the_previous_artifact(ingested: Reforge) -> None:
    before = (ingested.folder / "artifacts/ingest.manifest.json").read_text()
    (ingested.folder / "data.jsonl").unlink()
    code, _ = ingested("ingest")
    assert code == 1
    assert (ingested.folder / "artifacts/ingest.manifest.json").read_text() == before
    assert list((ingested.folder / "artifacts/ingest/documents").iterdir())


def test_everything_dropped(ingested: Reforge) -> None:
    code, said = ingested("curate", "--set", "curate.min_characters=900000")
    assert code == 1
    assert "curate" in said
    assert not (ingested.folder / "artifacts/curate").exists()


def test_unwritable_disk(reforge: Reforge) -> None:
    (reforge.folder / "artifacts").write_text("a file where a folder should be")
    code, said = reforge("ingest")
    assert code == 1
    assert "artifacts" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("data=3", "data=3 must divide pretrain.grid.data = 1"),
        ("tensr=2", "`tensr` is no dimension of a layout"),
        ("data=zero", "`data=zero` needs a whole number"),
        ("pipeline=16", "16 pipeline stages need a layer each, and the model has"),
        ("data=1,expert=2", "expert=2 must divide data=1"),
    ],
)
def test_wrong_layout(reforge: Reforge, layout: str, message: str) -> None:
    code, said = reforge("pretrain", "--layout", layout)
    assert (code, message in said) == (2, True), said


def test_dry_run_writes_nothing(reforge: Reforge) -> None:
    code, _ = reforge("ingest", "--dry-run")
    assert code == 0
    assert nothing_written(reforge.folder)


def test_audit_of_nothing(reforge: Reforge) -> None:
    code, said = reforge("audit", "a", "b")
    assert code == 1
    assert "a is no record of roots" in said


def test_unknown_recipe(reforge: Reforge) -> None:
    code, said = reforge("init", "desktop", "new")
    assert code == 2
    assert "choose one of domain_adaptation, gatortron, gatortrongpt, laptop" in said
