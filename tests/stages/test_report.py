"""``reforge report``: a finished project in, one page out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megatron_core.errors import ReforgeError
from megatron_core.identity import manifest_path, read_manifest, verify_files
from stages.report import report
from tests import projects


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has run up to the audit."""
    monkeypatch.chdir(tmp_path)
    return projects.write_project(tmp_path)


def test_one_page_and_its_manifest(project: Path) -> None:
    report()
    artifact = project / "artifacts/report"
    manifest = read_manifest(manifest_path(artifact))
    assert list(manifest.files) == ["report.html"]
    assert not verify_files(artifact, manifest)
    assert "<h1>A tiny model</h1>" in (artifact / "report.html").read_text()
    assert len(manifest.inputs) == 11


def test_the_root_outlives_times_and_layouts(project: Path) -> None:
    report()
    before = read_manifest(manifest_path(project / "artifacts/report"))
    projects.write_project(project, seconds=77.0, ranks=2)
    report()
    after = read_manifest(manifest_path(project / "artifacts/report"))
    assert after.root == before.root
    assert after.files != before.files
    report(overrides=["report.title=Another"])
    assert read_manifest(manifest_path(project / "artifacts/report")).root != before.root


def test_a_stage_that_has_not_run_is_named(project: Path) -> None:
    shutil.rmtree(project / "artifacts/convert")
    with pytest.raises(ReforgeError, match="run `reforge convert` first"):
        report()
    assert not (project / "artifacts/report").exists()
