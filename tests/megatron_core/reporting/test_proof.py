"""The verdict of the audit in words."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_core.reporting.proof import in_words, read_verdict
from tests import projects

ROOTS = {"ingest": "1" * 64, "curate": "2" * 64}


@pytest.fixture
def audit() -> dict[str, Any]:
    return projects.audit(ROOTS)


def test_all_is_well(audit: dict[str, Any]) -> None:
    verdict = read_verdict(audit, ROOTS)
    assert verdict.good
    assert "All 2 artifacts are as recorded: every one of their 6 files" in verdict.sentences[0]
    assert verdict.sentences[1] == (
        "Retraining from step 15 to 20 on one rank gave the same bits as the recorded run on "
        "2 data-parallel ranks."
    )


def test_a_replay_that_differs(audit: dict[str, Any]) -> None:
    audit["replay"] |= {"same": False, "root": "b" * 64}
    verdict = read_verdict(audit, ROOTS)
    assert not verdict.good
    assert "gave other bits: root bbbbbbbbbbbb where aaaaaaaaaaaa" in verdict.sentences[1]


def test_no_replay_is_said(audit: dict[str, Any]) -> None:
    audit["replay"] = None
    verdict = read_verdict(audit, ROOTS)
    assert verdict.good
    assert verdict.sentences[1] == "No part of the training was replayed."


def test_problems_are_named(audit: dict[str, Any]) -> None:
    audit["stages"]["curate"]["problems"] = ["drops.json was altered"]
    verdict = read_verdict(audit, ROOTS)
    assert not verdict.good
    assert verdict.sentences[0] == "The audit found 1 problem: curate: drops.json was altered."


def test_an_audit_of_other_artifacts_is_no_proof(audit: dict[str, Any]) -> None:
    verdict = read_verdict(audit, {**ROOTS, "curate": "3" * 64, "dedup": "4" * 64})
    assert not verdict.good
    assert "The audit did not look at dedup." in verdict.sentences
    assert any("saw another curate" in sentence for sentence in verdict.sentences)


def test_layouts_in_words() -> None:
    assert in_words({"data": 1}) == "one rank"
    assert in_words({"data": 4, "tensor": 2, "pipeline": 1}) == (
        "4 data-parallel × 2 tensor-parallel ranks"
    )
