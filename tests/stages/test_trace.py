"""From a sample's number to its documents, held against the tokens that training reads."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from kernels.cross_entropy import IGNORED
from megatron_core.config import load_recipe
from megatron_core.data.curation.normalize import normalize
from megatron_core.data.documents import read_shard, read_shards, write_shard
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.data.tokenizer.folder import write_folder
from megatron_core.errors import ConfigError, IntegrityError, ReforgeError
from megatron_core.identity import (
    Environment,
    Manifest,
    RunRecord,
    manifest_path,
    read_manifest,
)
from megatron_core.trainer.assemble import prediction_objective
from megatron_core.trainer.language import LanguageObjective
from stages.curate import curate
from stages.decontaminate import decontaminate
from stages.dedup import dedup
from stages.ingest import ingest
from stages.tokenize import tokenize
from stages.tokenizer import tokenizer
from stages.trace import trace

PARAMS = """\
ingest:
  sources:
    notes: {kind: jsonl, path: notes, metadata: [patient]}
    books: {kind: text, path: books.txt, separator: "\\n\\n"}
  shards: 3
decontaminate: {heldout: 0.2}
tokenizer: {vocabulary: 300}
finetune:
  continued:
    sequence_length: 24
    steps: 2
    batch: {sequences: 4, microbatch: 2}
    schedule: {warmup_steps: 1}
evaluate: {question_source: null}
execution: {workers: 1}
pretrain:
  model: {vocabulary: 300, positions: 64, layers: 1, hidden: 32, heads: 2, kv_heads: 2, ffn: 48}
  steps: 20
  schedule: {warmup_steps: 1}
  sequence_length: 32
  batch: {sequences: 4, microbatch: 2}
"""
WORDS = (
    "patient", "fever", "cough", "naïve", "咳嗽", "😀", "שלום", "with", "the", "of", "was", "seen",
    "and", "treated", "at", "home",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of dirty notes with a copy of the third, up to its tokens."""
    folder = tmp_path_factory.mktemp("project")
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(9, 40))) for _ in range(90)]
    dirty = [text.replace(" was ", "  was \r\n\x07") for text in texts[:60]]
    lines = [json.dumps({"text": text, "patient": n % 7}) for n, text in enumerate(dirty)]
    lines.insert(4, json.dumps({"text": texts[2].upper()}))
    (folder / "notes").mkdir()
    (folder / "notes/a.jsonl").write_text("\n".join(lines[:20]) + "\n")
    (folder / "notes/b.jsonl").write_text("\n\n" + "\n".join(lines[20:]) + "\n")
    (folder / "books.txt").write_text("\n\n".join(texts[60:]))
    (folder / "params.yaml").write_text(PARAMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (ingest, curate, dedup, decontaminate, tokenizer, tokenize):
            stage()
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break, with finished runs."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    finish()
    return tmp_path / "project"


def finish(**changes: Any) -> None:
    """Runs that were trained as the recipe says, but for ``changes`` of pretrain."""
    recipe = load_recipe(Path("params.yaml"))
    pretrained = recipe.pretrain.model_copy(update=changes)
    for stage, section in (("pretrain", pretrained), ("finetune", recipe.finetune)):
        inputs = ["tokenize"] if stage == "pretrain" else ["pretrain", "tokenize"]
        artifact = Path("artifacts", stage)
        artifact.mkdir(exist_ok=True)
        Manifest.of(
            artifact, stage=stage, recipe=section.identity(),
            inputs={
                needed: read_manifest(manifest_path(Path("artifacts", needed))).root
                for needed in inputs
            },
            record=RunRecord(
                command="x", started="x", seconds=1, layout={}, environment=Environment.current()
            ),
        ).write(manifest_path(artifact))  # fmt: skip


def traced(capsys: pytest.CaptureFixture[str], sample: int, run: str = "pretrain") -> Any:
    capsys.readouterr()
    trace(sample, run, as_json=True)
    return json.loads(capsys.readouterr().out)


def trained_tokens(objective: LanguageObjective, sample: int) -> list[int]:
    """What training reads of a sample: its first token, and each that is predicted."""
    batch = objective.read([sample])
    predicted = batch.targets[0][batch.targets[0] != IGNORED]
    return [int(batch.tokens[0, 0]), *predicted.tolist()]


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        ("pretrain", {}),
        ("finetune.continued", {}),
        ("pretrain", {"order": "megatron", "sources": {"notes": 0.7, "books": 0.3}}),
        ("pretrain", {"packing": "best_fit", "sources": {"books": 1.0}}),
    ],
)
def test_the_trace_is_what_was_trained_on(
    project: Path, capsys: pytest.CaptureFixture[str], run: str, changes: dict[str, Any]
) -> None:
    finish(**changes)
    recipe = load_recipe(Path("params.yaml"))
    config = recipe.pretrain.model_copy(update=changes)
    if run == "finetune.continued":
        config = recipe.finetune.continued  # type: ignore[assignment]
    objective = prediction_objective(
        config, recipe.pretrain.model, Path("artifacts/tokenize"), Path("runs")
    )
    opened = Tokenizer.load(Path("artifacts/tokenizer"))
    documents = {d.id: d for d in read_shards(Path("artifacts/decontaminate/train"))}
    for sample in range(0, config.steps * config.batch.sequences, 5 if changes else 1):
        found = traced(capsys, sample, run)
        assert found["step"] == sample // 4 + 1
        rebuilt: list[int] = []
        for document in found["documents"]:
            tokens = [*opened.encode(documents[document["id"]].text), opened.end_of_document]
            assert document["document_tokens"] == len(tokens)
            assert document["positions"][0] == len(rebuilt)
            first, last = document["tokens"]
            assert document["text"] == opened.decode(tokens[first:last])
            rebuilt += tokens[first:last]
            assert document["positions"][1] == len(rebuilt)
            assert _source_text(document["origin"]) == documents[document["id"]].text
        assert rebuilt == trained_tokens(objective, sample)


def write_word_pieces(folder: Path) -> None:
    """A cased WordPiece tokenizer that has some of the words, and of the others letters."""
    special = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    letters = sorted({*"".join(WORDS)})
    entries = [*special.values(), *WORDS[::2], *letters, *(f"##{c}" for c in letters)]
    ids = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    backend = Backend(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([*special.values()])
    write_folder(backend, folder, special)


@pytest.mark.parametrize("pairs", ["sentence_order", "next_sentence"])
def test_both_segments_of_a_pair_are_traced(
    pairs: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_word_pieces(project / "pieces")
    masking = f"masking: {{framed: true, pairs: {pairs}}}"
    Path("params.yaml").write_text(
        PARAMS.replace("{vocabulary: 300}", "{kind: existing, path: pieces}", 1)
        .replace(
            "{vocabulary: 300,", "{kind: encoder, token_types: 2, pooler: true, vocabulary: 300,"
        )
        .replace("  steps: 20", f"  {masking}\n  steps: 20")
        .replace("    steps: 2\n", f"    {masking}\n    steps: 2\n")
    )
    tokenizer()
    tokenize()
    finish()
    config = load_recipe(Path("params.yaml")).pretrain
    objective = prediction_objective(config, config.model, Path("artifacts/tokenize"), Path("runs"))
    opened = Tokenizer.load(Path("artifacts/tokenizer"))
    documents = {d.id: d for d in read_shards(Path("artifacts/decontaminate/train"))}
    for sample in range(0, 80, 3):
        batch = objective.read([sample])
        read = torch.where(batch.targets == IGNORED, batch.tokens, batch.targets)[0]
        traces = traced(capsys, sample)["documents"]
        for document in traces:
            whole = opened.encode(documents[document["id"]].text)
            first, last = document["tokens"]
            assert last <= len(whole) == document["document_tokens"] - 1  # without its end
            assert read[slice(*document["positions"])].tolist() == whole[first:last]
            assert document["text"] == opened.decode(whole[first:last])
        before, after = ((d["id"], d["tokens"]) for d in traces)
        assert batch.labels is not None
        assert batch.labels.tolist() == [(before[0], before[1][1]) != (after[0], after[1][0])]


def _source_text(origin: dict[str, Any]) -> str:
    """What stands in the source where ``origin`` points to."""
    if origin["file"] == "books.txt":
        lines = Path("books.txt").read_text().split("\n")
        return normalize(lines[origin["line"] - 1])
    lines = Path("notes", origin["file"]).read_text().split("\n")
    return normalize(json.loads(lines[origin["line"] - 1])["text"])


def test_history_of_a_document(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}
    for sample in range(80):
        seen |= {document["id"]: document for document in traced(capsys, sample)["documents"]}
    kept = [document for document in seen.values() if document["duplicates"]]
    assert [(d["id"], d["duplicates"][0]["id"]) for d in kept] in (
        [("notes/2", "notes/4")], [("notes/4", "notes/2")],
    )  # fmt: skip
    assert kept[0]["duplicates"][0]["kind"] == "exact"
    dirty = next(d for d in seen.values() if d["source"] == "notes" and d["curation"])
    curation = dirty["curation"]
    assert curation["characters_after"] < curation["characters_before"]
    assert any(line.startswith("-") and "\r" in line for line in curation["diff"])
    assert any(line.startswith("+\x07") for line in curation["diff"]) is False
    assert dirty["metadata"]["patient"] in range(7)
    clean = next(d for d in seen.values() if d["source"] == "books")
    assert clean["curation"] is None
    capsys.readouterr()
    trace(0)
    printed = capsys.readouterr().out
    assert "sample 0 of pretrain: step 1, sequence 0 of its batch" in printed
    assert "\x07" not in printed


def test_edits_of_curation_are_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = traced(capsys, 0)["documents"][0]["id"]
    for path in sorted(Path("artifacts/curate/documents").glob("*.jsonl")):
        documents = list(read_shard(path))
        for document in documents:
            if document.id == first:
                document.metadata["edits"] = {"lines_removed": 3}
        write_shard(path, documents)
    resign("curate")
    found = traced(capsys, 0)["documents"][0]
    assert found["curation"]["edits"] == {"lines_removed": 3}


def resign(stage: str) -> None:
    """The manifests that ``stage`` and those after it would have now."""
    order = ["ingest", "curate", "dedup", "decontaminate", "tokenizer", "tokenize"]
    roots = {name: read_manifest(manifest_path(Path("artifacts", name))).root for name in order}
    for name in order[order.index(stage) :]:
        path = manifest_path(Path("artifacts", name))
        old = read_manifest(path)
        inputs = {needed: roots[needed] for needed in old.inputs}
        new = Manifest.of(
            Path("artifacts", name), stage=name, inputs=inputs, recipe=old.recipe, record=old.record
        )
        new.write(path)
        roots[name] = new.root
    finish()


def test_what_cannot_be_traced_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="counted from 0"):
        trace(-1)
    with pytest.raises(ConfigError, match="took 80 samples, 4 in each of 20 steps; the last is 79"):
        trace(80)
    with pytest.raises(ConfigError, match=r"one of pretrain, finetune\.continued"):
        trace(0, "finetune")
    shutil.rmtree("artifacts/pretrain")
    with pytest.raises(ReforgeError, match="run `reforge pretrain` first"):
        trace(0)


@pytest.mark.parametrize("stage", ["ingest", "dedup", "decontaminate"])
def test_artifacts_that_do_not_belong_together_are_refused(project: Path, stage: str) -> None:
    path = manifest_path(Path("artifacts", stage))
    path.write_text(path.read_text().replace('"root": "', '"root": "f', 1))
    with pytest.raises(IntegrityError, match=f"made from another {stage}"):
        trace(0)


@pytest.mark.parametrize(
    "stages", [["curate"], ["dedup"], ["decontaminate"], ["curate", "dedup", "decontaminate"]]
)
def test_an_altered_text_is_noticed(project: Path, stages: list[str]) -> None:
    """Sizes stay, so only the texts themselves can tell; altered alike, only their tokens can."""
    for path in Path("artifacts").rglob("*.jsonl"):
        if path.parent.name in {"documents", "train"} and path.parts[1] in stages:
            path.write_bytes(path.read_bytes().replace(b"patient", b"pAtient"))
    with pytest.raises(IntegrityError, match="changed"):
        for sample in range(20):
            trace(sample)


def test_a_lost_document_is_noticed(project: Path) -> None:
    for path in Path("artifacts/ingest/documents").glob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(b'{"id":"', b'{"iD":"'))
    with pytest.raises(IntegrityError, match=r"does not hold (notes|books)/"):
        trace(0)
