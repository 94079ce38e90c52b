"""Precision and recall of de-identification on synthetic notes that another program labelled.

The notes come from meddeid-data (AGPL-3.0), which runs as a command of its own: nothing of it is
imported. MEDDEID_DATA names the command, or a folder of its finished output (*.jsonl).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables import write_table
from megatron_core.config.corpus.curate import Deidentify
from megatron_core.data.curation.deidentification import Deidentifier, Span
from megatron_core.data.sources.hpo import HpoTerms

_COMMAND = "meddeid-data"
_HOW = """no meddeid-data here: it makes the labelled notes (AGPL-3.0, an outside tool).
  python -m venv /some/folder && /some/folder/bin/pip install meddeid-data==0.4.2
  MEDDEID_DATA=/some/folder/bin/meddeid-data python -m benchmarks.data deidentify"""
# The patterns were written looking at notes of other seeds.
_SETS = (("en-US", 44), ("en-GB", 55))
_NOTES = 400
_EVERY_TERM = 8
_CONTACTS = {"PHONE", "FAX", "EMAIL", "URL"}
_NUMBERS = {"SSN", "MRN", "HEALTH_PLAN", "ACCOUNT", "LICENSE", "DEVICE", "ID"}
_TITLE = re.compile(r"(?:Dr|Mr|Mrs|Ms|Miss|Prof|Professor|Sister|Nurse)\.? ")
_YEAR = re.compile(r"(?:1[89]|20)\d\d")
_AGE = re.compile(r"(?i)\d+[\s-]*(?:y|mo|week|day)|^\d{1,3}$")


@dataclass
class _Score:
    """Counts of one row: labelled, of those wholly replaced, replaced, of those labelled."""

    labelled: int = 0
    found: int = 0
    replaced: int = 0
    right: int = 0


@dataclass
class _Scores:
    rows: dict[str, _Score] = field(default_factory=dict)

    def of(self, row: str) -> _Score:
        return self.rows.setdefault(row, _Score())


def run() -> None:
    """Write the table of each class for notes from the United States and from Britain."""
    with tempfile.TemporaryDirectory() as folder:
        files = _labelled_notes(Path(folder))
        if files is None:
            print(_HOW)
            return
        rows: list[list[str]] = []
        speeds = []
        for name, path in files:
            notes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            deidentifier = Deidentifier(Deidentify(region=name[-2:]))
            started = time.process_time()
            spans = [deidentifier.find(note["text"]) for note in notes]
            seconds = time.process_time() - started
            characters = sum(len(note["text"]) for note in notes)
            speeds.append(
                f"{name}: {len(notes) / seconds:.0f} notes/s and {characters / seconds / 1e3:.0f} "
                f"thousand characters/s on one core ({len(notes)} notes)"
            )
            rows += _table(name, _score(notes, spans))
    note = (
        "Synthetic notes from templates: figures on real notes will be lower. Recall is the share "
        "of labelled spans of which no letter or digit is left (titles aside); precision the share "
        "of replaced spans that touch a labelled one. Ages up to 89 and years alone are no "
        "identifiers under Safe Harbor and do not count; professions and organisations other than "
        "hospitals are not looked for. " + "; ".join([*speeds, _of_ontology()]) + "."
    )
    header = ("notes", "labelled as", "class here", "labelled", "recall", "precision", "F1")
    write_table("data_deidentify", "python -m benchmarks.data deidentify", header, rows, note)


def _of_ontology() -> str:
    """How much is replaced where nobody is named."""
    deidentifier = Deidentifier(Deidentify())
    texts = [record.text for record in HpoTerms()][::_EVERY_TERM]
    found = sum(len(deidentifier.find(text)) for text in texts)
    words = sum(len(text.split()) for text in texts)
    return (
        f"in {len(texts):,} terms of the Human Phenotype Ontology, which concern nobody, "
        f"{found / words * 1000:.1f} spans per 1,000 words are replaced, mostly eponyms"
    )


def _labelled_notes(folder: Path) -> list[tuple[str, Path]] | None:
    """The notes by name: those that are there, or new ones; None without the tool."""
    given = os.environ.get("MEDDEID_DATA", _COMMAND)
    if Path(given).is_dir():
        return [(path.stem, path) for path in sorted(Path(given).glob("*.jsonl"))]
    command = shutil.which(given)
    if command is None:
        return None
    made = []
    for profile, seed in _SETS:
        path = folder / f"{profile}.jsonl"
        subprocess.run(
            [command, "generate", "--language-profile", profile, "--count", str(_NOTES),
             "--seed", str(seed), "--output", str(path)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        made.append((profile, path))
    return made


def _score(notes: Sequence[dict[str, Any]], found: Sequence[Sequence[Span]]) -> _Scores:
    scores = _Scores()
    for note, spans in zip(notes, found, strict=True):
        text, labels = note["text"], list(_labels(note))
        covered = {place for span in spans for place in range(span.start, span.end)}
        for start, end, row in labels:
            title = _TITLE.match(text, start, end)
            rest = range(title.end() if title else start, end)
            score = scores.of(row)
            score.labelled += 1
            tells = str.isdigit if row == "ages over 89" else str.isalnum
            score.found += all(place in covered for place in rest if tells(text[place]))
        for span in spans:
            score = scores.of(_row_of(span.kind))
            score.replaced += 1
            score.right += any(
                label["begin"] < span.end and span.start < label["end"] for label in note["spans"]
            )
    return scores


def _labels(note: dict[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Start, end and row of what is labelled, but for what Safe Harbor lets stay."""
    for span in note["spans"]:
        label, text = span["label"], span["text"]
        row = {
            "Name": "names", "Date": "dates", "Contactdetails": "contacts", "ID": "numbers",
            "Address_Location": "places", "Organization": "other organisations",
            "Profession": "professions", "Age_Birthdate": "dates",
        }[label.partition(":")[0]]  # fmt: skip
        if label == "Organization:Healthcare":
            row = "hospitals"
        if row == "dates" and (_YEAR.fullmatch(text) or _AGE.search(text)):
            if not any(int(number) > 89 for number in re.findall(r"\d+", text)):
                continue
            row = "ages over 89"
        yield span["begin"], span["end"], row


def _row_of(kind: str) -> str:
    if kind in _CONTACTS:
        return "contacts"
    if kind in _NUMBERS:
        return "numbers"
    return {"NAME": "names", "DATE": "dates", "AGE": "ages over 89", "LOCATION": "places"}.get(
        kind, kind
    )


def _table(name: str, scores: _Scores) -> list[list[str]]:
    classes = {
        "names": "NAME", "places": "LOCATION", "hospitals": "LOCATION", "dates": "DATE",
        "ages over 89": "AGE", "contacts": "PHONE, FAX, EMAIL, URL",
        "numbers": "SSN, MRN, LICENSE, ID, …",
    }  # fmt: skip
    rows = []
    for row, score in sorted(scores.rows.items(), key=lambda item: -item[1].labelled):
        recall = score.found / score.labelled if score.labelled else None
        precision = score.right / score.replaced if score.replaced else None
        f1 = 2 * recall * precision / (recall + precision) if recall and precision else None
        rows.append(
            [name, row, classes.get(row, "none"), str(score.labelled)]
            + ["" if value is None else f"{value:.3f}" for value in (recall, precision, f1)]
        )
    return rows
