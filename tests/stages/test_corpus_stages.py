"""ingest → curate → dedup → decontaminate as commands: artifacts, metrics, roots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_core.errors import CorpusError, ReforgeError
from megatron_core.identity import manifest_path, read_manifest, verify_files
from stages.curate import curate
from stages.decontaminate import decontaminate
from stages.dedup import dedup
from stages.ingest import ingest

STAGES = {"ingest": ingest, "curate": curate, "dedup": dedup, "decontaminate": decontaminate}
PARAMS = """\
ingest:
  sources:
    notes: {kind: jsonl, path: notes.jsonl}
    icd10cm: {kind: icd10cm}
    hpo: {kind: hpo}
execution: {workers: 1}
decontaminate: {heldout: 0.3}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose one readable source is a file of thirty notes and a copy."""
    from megatron_core.data import ingestion
    from megatron_core.data.sources import Record, open_source

    def open_small(config: object, workers: int) -> object:
        if getattr(config, "kind", "") == "jsonl":
            return open_source(config, workers)  # type: ignore[arg-type]
        kind = getattr(config, "kind", "")
        return [Record(" ".join(f"{kind}{n}" for n in range(12)))]

    monkeypatch.setattr(ingestion, "open_source", open_small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    texts = [
        f"Patient {n} came on day {n * 7} with a cough that lasted {n} days." for n in range(30)
    ]
    lines = [json.dumps({"text": text}) for text in [*texts, texts[0].upper(), "short"]]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    return tmp_path


def roots(project: Path) -> dict[str, str]:
    return {s: read_manifest(manifest_path(project / "artifacts" / s)).root for s in STAGES}


def test_from_files_to_splits(project: Path) -> None:
    for stage in STAGES.values():
        stage()
    metrics = {
        stage: json.loads((project / f"metrics/{stage}.json").read_text()) for stage in STAGES
    }
    assert metrics["ingest"]["sources"]["notes"]["documents"] == 32
    assert metrics["curate"]["reasons"] == {"too_short": 1}
    assert (metrics["dedup"]["exact"], metrics["dedup"]["documents"]) == (1, 32)
    split = metrics["decontaminate"]
    removed = sum(split["removed"].values())
    assert split["train"]["documents"] + split["heldout"]["documents"] + removed == 32
    for stage in STAGES:
        artifact = project / "artifacts" / stage
        assert not verify_files(artifact, read_manifest(manifest_path(artifact)))
    first = roots(project)
    for stage in STAGES.values():
        stage(overrides=["execution.workers=2"])
    assert roots(project) == first


def test_a_failure_leaves_the_artifact_as_it_was(project: Path) -> None:
    ingest()
    before = read_manifest(manifest_path(project / "artifacts/ingest"))
    (project / "notes.jsonl").write_text("broken")
    with pytest.raises(CorpusError, match=r"notes\.jsonl:1"):
        ingest()
    assert not verify_files(project / "artifacts/ingest", before)
    assert sorted(path.name for path in (project / "artifacts").iterdir()) == [
        "ingest", "ingest.manifest.json"
    ]  # fmt: skip
    with pytest.raises(ReforgeError, match="run `reforge curate` first"):
        dedup()
