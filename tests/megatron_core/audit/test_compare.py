"""Two pipelines, or two checkpoints, are the same or differ somewhere first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from megatron_core.audit import RecordedRoots, compare, project_roots
from megatron_core.errors import IntegrityError
from megatron_core.identity import Environment, Manifest, RunRecord, manifest_path
from tests.models import random_decoder, small_config, write_checkpoint

STAGES = ("ingest", "curate", "dedup", "tokenize")
HERE = Environment(
    cpu="one", instructions="avx2", gpu=None, python="3.11.0", system="Linux",
    libraries={"torch": "2.13"},
)  # fmt: skip


def project(
    folder: Path, texts: dict[str, str], environment: Environment = HERE, **recipe: object
) -> Path:
    """A project whose stages each hold one text."""
    for i, (stage, text) in enumerate(texts.items()):
        artifact = folder / "artifacts" / stage
        artifact.mkdir(parents=True)
        (artifact / "text").write_text(text)
        record = RunRecord(
            command="x", started=f"2020-01-0{i + 1}T00:00:00+00:00", seconds=1.0, layout={},
            environment=environment,
        )  # fmt: skip
        Manifest.of(artifact, stage=stage, inputs={}, recipe=recipe, record=record).write(
            manifest_path(artifact)
        )
    return folder


TEXTS = {"ingest": "a", "curate": "b", "dedup": "c"}


def test_roots_are_recorded_and_read(tmp_path: Path) -> None:
    roots = project_roots(project(tmp_path, TEXTS) / "artifacts", STAGES)
    assert list(roots.roots) == ["ingest", "curate", "dedup"]
    assert (roots.environment, roots.date) == (HERE, "2020-01-03")
    roots.write(tmp_path / "roots.json")
    assert RecordedRoots.read(tmp_path / "roots.json") == roots


def test_the_same(tmp_path: Path) -> None:
    ours, theirs = project(tmp_path / "a", TEXTS), project(tmp_path / "b", TEXTS)
    found = compare(ours, theirs, STAGES)
    assert (found.same, found.causes) == (True, [])
    assert found.verdict == (
        "the same model, bit for bit: 3 stages from ingest to dedup have equal roots"
    )
    # A project may be given by the folder of its artifacts, or by its recorded roots.
    project_roots(ours / "artifacts", STAGES).write(tmp_path / "roots.json")
    for other in (theirs / "artifacts", tmp_path / "roots.json"):
        assert compare(theirs, other, STAGES) == found


def test_the_first_stage_that_differs_is_named_with_causes(tmp_path: Path) -> None:
    there = HERE.model_copy(update={"cpu": "two", "libraries": {"torch": "2.14"}})
    ours = project(tmp_path / "a", TEXTS)
    theirs = project(tmp_path / "b", {**TEXTS, "dedup": "C", "curate": "B"}, there)
    found = compare(ours, theirs, STAGES)
    assert not found.same
    roots = [project_roots(p / "artifacts", STAGES).roots["curate"][:16] for p in (ours, theirs)]
    assert found.verdict == f"curate is the first stage that differs: {roots[0]} and {roots[1]}"
    assert found.causes == ["CPU: one here, two there", "torch: 2.13 here, 2.14 there"]


def test_without_another_cause_it_is_the_recipe(tmp_path: Path) -> None:
    ours = project(tmp_path / "a", TEXTS)
    theirs = project(tmp_path / "b", {**TEXTS, "dedup": "C"})
    (cause,) = compare(ours, theirs, STAGES).causes
    assert "the recipe or the sources" in cause


def test_the_recipe_is_the_likeliest_cause(tmp_path: Path) -> None:
    there = HERE.model_copy(update={"cpu": "two"})
    ours = project(tmp_path / "a", TEXTS, rules={"least": 40, "most": 9})
    theirs = project(
        tmp_path / "b", {**TEXTS, "curate": "B"}, there, rules={"least": 50, "more": 9}
    )
    assert compare(ours, theirs, STAGES).causes == [
        "curate.rules.least: 40 here, 50 there",
        "curate.rules.more: absent here, 9 there",
        "curate.rules.most: 9 here, absent there",
        "CPU: one here, two there",
    ]


def test_stages_that_one_lacks_are_not_compared(tmp_path: Path) -> None:
    ours = project(tmp_path / "a", TEXTS)
    theirs = project(tmp_path / "b", {"curate": "b", "tokenize": "t"})
    assert "1 stages from curate to curate" in compare(ours, theirs, STAGES).verdict
    other = project(tmp_path / "c", {"tokenize": "t"})
    with pytest.raises(IntegrityError, match="no stage in common"):
        compare(ours, other, STAGES)


def checkpoint(folder: Path, change: float = 0.0) -> Path:
    decoder = random_decoder(small_config())
    with torch.no_grad():
        dict(decoder.named_parameters())["layers.1.ffn.up.weight.0"][3, 4] += change
    write_checkpoint(folder, decoder)
    return folder / "step-00000001"


def test_an_altered_checkpoint_is_not_called_the_same(tmp_path: Path) -> None:
    ours, altered = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    file = altered / "weights" / "__0_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match="was altered"):
        compare(ours, altered, STAGES)


def test_checkpoints(tmp_path: Path) -> None:
    ours, same = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    found = compare(ours, same, STAGES)
    assert found.same
    assert re.fullmatch(r"the same bits: both have root [0-9a-f]{16} at step 1", found.verdict)
    found = compare(ours, checkpoint(tmp_path / "c", 0.5), STAGES)
    assert not found.same
    assert found.verdict.startswith(
        "1 tensor differs; the first in name order is weights/layers.1.ffn.up.weight, in "
        "1 element, first in grid shard 0 at [3, 4]: "
    )
    assert found.details == ["both ran on the layout data=1"]
    (cause,) = found.causes
    assert cause.startswith("nothing recorded of the recipe, the machines and the libraries")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    ours = project(tmp_path / "a", TEXTS)
    with pytest.raises(IntegrityError, match="cannot compare a pipeline with a checkpoint"):
        compare(ours, checkpoint(tmp_path / "b"), STAGES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IntegrityError, match="holds no manifest: run `dvc repro` first"):
        compare(ours, tmp_path / "empty", STAGES)
    with pytest.raises(IntegrityError, match="is no record of roots"):
        compare(ours, tmp_path / "nowhere.json", STAGES)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(IntegrityError, match="is no record of roots"):
        compare(ours, tmp_path / "other.json", STAGES)


def test_first_means_first_in_the_pipeline(tmp_path: Path) -> None:
    ours = project(tmp_path / "a", TEXTS)
    theirs = project(tmp_path / "b", {"ingest": "A", "curate": "B", "dedup": "C"})
    project_roots(ours / "artifacts", STAGES).write(tmp_path / "roots.json")
    found = compare(tmp_path / "roots.json", theirs, STAGES)
    assert found.verdict.startswith("ingest is the first stage that differs")
