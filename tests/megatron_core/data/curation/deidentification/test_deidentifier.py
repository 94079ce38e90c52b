"""Notes written by hand, class by class; what must stay; and what holds for every text."""

from __future__ import annotations

import importlib.util
import re
import socket
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("presidio_analyzer", reason="the extra `clinical` is not installed")
pytest.importorskip("philter_lite", reason="the extra `clinical` is not installed")

from megatron_core.config.corpus.curate import PHI_CLASSES, Deidentify
from megatron_core.data.curation.deidentification import Deidentifier
from megatron_core.data.curation.deidentification.vocabulary import load_vocabulary
from megatron_core.errors import ConfigError, MissingExtraError


@pytest.fixture(scope="module")
def deidentifier() -> Deidentifier:
    return Deidentifier(Deidentify())


# What is between ⟦CLASS: and ⟧ must become the placeholder, and the rest must stay.
NOTES = [
    "Dr. ⟦NAME:Keawe Dabydeen⟧ saw Mrs. ⟦NAME:O'Brien-Katz⟧ today; ⟦NAME:Dabydeen⟧ agreed.",
    "Patient: ⟦NAME:SMITH, JOHN A⟧\nAttending: ⟦NAME:Maria de la Cruz⟧, MD",
    "His wife ⟦NAME:Shanice⟧ called. ⟦NAME:J. R. Venkataraman⟧, RN was told.",
    "Dictated by: ⟦NAME:Ulrike Pfannenstiel⟧",
    "Lives at ⟦LOCATION:1420 NW Maple Grove Ave, Apt 3B, Springfield, IL 62704⟧.",
    "She was transferred to ⟦LOCATION:Saint Agnes Hospital⟧ and moved to ⟦LOCATION:Tulsa⟧.",
    "Address: ⟦LOCATION:P.O. Box 88, Hilo⟧ | Phone: ⟦PHONE:(808) 555-0133⟧",
    "The practice in ⟦LOCATION:SW1A 1AA⟧ was told.",
    "Admitted ⟦DATE:03/14/2019⟧, discharged ⟦DATE:March 18, 2019⟧, seen ⟦DATE:2019-04-02⟧.",
    "Seen on ⟦DATE:3/14⟧ and the ⟦DATE:2nd of May⟧; stable since ⟦DATE:August⟧ and since 2016.",
    "DOB: ⟦DATE:4-Jul-1931⟧. Aged ⟦AGE:93⟧, a ⟦AGE:93⟧-year-old; her son is 64 years old.",
    "He is ⟦AGE:101⟧ years old, the sister ⟦AGE:ninety-two⟧ years old.",
    "Call ⟦PHONE:212-555-0188⟧ or ext. ⟦PHONE:4471⟧, fax ⟦FAX:212-555-0189⟧.",
    "Write to ⟦EMAIL:jo.x+y@ward7.hospital.local⟧, see ⟦URL:https://portal.example.org/p?id=9⟧.",
    "SSN: ⟦SSN:078-05-1120⟧, ending in: none; social security number ⟦SSN:219099999⟧.",
    "MRN: ⟦MRN:A0012345⟧, chart # ⟦MRN:88-12-04⟧.",
    "Medicare ⟦HEALTH_PLAN:1EG4-TE5-MK73⟧; member ID ⟦HEALTH_PLAN:XQ99812733⟧.",
    "Account number ⟦ACCOUNT:000123987⟧, card ⟦ACCOUNT:4111 1111 1111 1111⟧.",
    "DEA ⟦LICENSE:AB1234563⟧, license no. ⟦LICENSE:MD-448120⟧.",
    "The car (VIN ⟦VEHICLE:1M8GDM9AXKP042788⟧, license plate ⟦VEHICLE:7ABC123⟧) rolled over.",
    "Pacemaker serial number ⟦DEVICE:PJN7712034⟧, pump MAC ⟦DEVICE:00:1A:2B:3C:4D:5E⟧.",
    "Logged in from ⟦IP:10.20.30.44⟧ and ⟦IP:fe80::1ff:fe23:4567:890a⟧.",
    "Fingerprint ID ⟦BIOMETRIC:FP-992817⟧ on file. Accession ⟦ID:S24-10388⟧.",
    "👩🏽‍⚕️ Dr. ⟦NAME:Yael Mizrahi⟧ כתבה: החולה ⟦PHONE:303-555-0144⟧ 🙂",
]
# Nobody is named here, and nothing is dated.
PLAIN = """Parkinson's disease with a Babinski sign; Foley catheter placed; Glasgow coma scale 15.
BP 128/76, pulse 72, SpO2 98 %, platelets 250,000, hemoglobin 13.5 g/dL, strength 5/5, pain 3/10.
Will follow up in 2 weeks. The patient may march on. Metoprolol 25 mg daily, then 1,500 mL.
No acute distress. Assessment and Plan: continue Lisinopril, Vitamin B12 and Tylenol as needed.
Seen in the Emergency Department and the Outpatient Clinic in 2016. L4-L5 disc, T2-weighted MRI.
A 64-year-old man from California. ICD-10 E11.65, EC 2.7.7.12, PMID: 24046799. Ratio 1:10."""


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_notes(deidentifier: Deidentifier, note: str) -> None:
    text = re.sub(r"⟦[A-Z_]+:(.*?)⟧", r"\1", note)
    assert deidentifier.replace(text).text == re.sub(r"⟦([A-Z_]+):.*?⟧", r"[**\1**]", note)


def test_every_class_has_a_note() -> None:
    assert {kind for note in NOTES for kind in re.findall("⟦([A-Z_]+):", note)} == {*PHI_CLASSES}


def test_what_names_nobody_stays(deidentifier: Deidentifier) -> None:
    assert deidentifier.replace(PLAIN).text == PLAIN


PIECES = st.sampled_from(
    [
        "Dr. Smith", "Mary", "12/03/2001", "(212) 555-0147", "a@b.org", "😀", "שלום", "é", "\n",
        "MRN: 12345", "[**NAME**]", "[**", "**]", "lives in Tulsa", "fever", ".", "٣٤٥٦٧٨٩", "ﬁ",
        "\u200f", " ",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(" ".join))
@settings(max_examples=60, deadline=None)
def test_what_is_between_the_spans_stays_as_it_is(deidentifier: Deidentifier, text: str) -> None:
    spans = deidentifier.find(text)
    replaced = deidentifier.replace(text)
    rest, end = [], 0
    for span in spans:
        assert end <= span.start < span.end <= len(text)
        rest.append(text[end : span.start])
        end = span.end
    expected = "".join(
        piece + f"[**{span.kind}**]" for piece, span in zip(rest, spans, strict=True)
    )
    assert replaced.text == expected + text[end:]
    assert sum(replaced.counts.values()) == len(spans)


def test_placeholders_stay_when_run_again(deidentifier: Deidentifier) -> None:
    for note in NOTES:
        once = deidentifier.replace(re.sub(r"⟦[A-Z_]+:(.*?)⟧", r"\1", note)).text
        assert deidentifier.replace(once).text == once


@pytest.mark.parametrize(
    "inside", ["Smith 3/14/2019", "NAME", "Dr. Smith, (212) 555-0147", "a@b.org"]
)
def test_what_a_placeholder_holds_stays(deidentifier: Deidentifier, inside: str) -> None:
    """Other corpora have such of their own, as MIMIC's with numbers and dates in them."""
    text = f"Dr. [**{inside}**] saw Mrs. {{}} [**{inside}**] on {{}}; [**{inside}**] agreed."
    assert deidentifier.replace(text.format("Quincey", "3/14/2019")).text == text.format(
        "[**NAME**]", "[**DATE**]"
    )


def test_one_name_has_one_number() -> None:
    consistent = Deidentifier(Deidentify(consistent=True))
    text = "Dr. Mizrahi and Mr. O'Brien met on 1/2/2003; O'BRIEN thanked Dr.  Mizrahi on 3/4/2003."
    assert consistent.replace(text).text == (
        "Dr. [**NAME-1**] and Mr. [**NAME-2**] met on [**DATE-1**]; [**NAME-2**] thanked "
        "Dr.  [**NAME-1**] on [**DATE-2**]."
    )
    assert consistent.replace("Mr. O'Brien left.").text == "Mr. [**NAME-1**] left."


def test_only_chosen_classes_go() -> None:
    some = Deidentifier(Deidentify(classes=["DATE"]))
    assert some.replace("Dr. Smith, 1/2/2003, a@b.org").text == "Dr. Smith, [**DATE**], a@b.org"


def test_a_name_told_once_is_found_everywhere(deidentifier: Deidentifier) -> None:
    text = "Patient: Quillon Xartheby\nQuillon slept. Xartheby's wife came. XARTHEBY ate."
    assert deidentifier.replace(text).text == (
        "Patient: [**NAME**]\n[**NAME**] slept. [**NAME**]'s wife came. [**NAME**] ate."
    )


@pytest.mark.parametrize(
    "text",
    [
        "We gave the bed to ⟦Shanice⟧ today.",
        "We gave the bed to Shanice; the shanice test is done.",  # small elsewhere
        "It hurt. Shanice hurt too.",  # as any word that starts a sentence
        "Signs of Shanice-Shanice were seen.",  # as two discoverers
    ],
)
def test_a_listed_name_alone(deidentifier: Deidentifier, text: str) -> None:
    plain = text.replace("⟦", "").replace("⟧", "")
    assert deidentifier.replace(plain).text == text.replace("⟦Shanice⟧", "[**NAME**]")


@pytest.mark.parametrize(
    "text",
    [
        "It was called Venkataraman syndrome.",  # announced as a name
        "The tests of Shanice Venkataraman score were done.",  # a known first name
        "He lives in Xartheby canal.",  # announced as a town
        "Pain in Xartheby canal.",  # after "in"
    ],
)
def test_what_is_called_after_somebody_stays(deidentifier: Deidentifier, text: str) -> None:
    assert deidentifier.replace(text).text == text
    without = re.sub(" (syndrome|score|canal)", "", text)
    assert deidentifier.replace(without).text != without


def test_a_disease_called_like_the_patient_stays(deidentifier: Deidentifier) -> None:
    text = "Patient: Quillon Xartheby\nXartheby has the Xartheby syndrome."
    assert deidentifier.replace(text).text == (
        "Patient: [**NAME**]\n[**NAME**] has the Xartheby syndrome."
    )


def test_lines_of_one_sign_are_read(deidentifier: Deidentifier) -> None:
    for unit in ("a", "A", "1", "-a", "a.", "Ab ", "1/", "@", "(1", "x@"):
        assert isinstance(deidentifier.replace(unit * 4000).text, str)


def test_nothing_is_asked_of_the_network(
    deidentifier: Deidentifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert Deidentifier(Deidentify()).replace("a@b.org, b.org").text == "[**EMAIL**], [**URL**]"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"curate\.deidentify\.region: no country 'ZZ'"):
        Deidentifier(Deidentify(region="ZZ"))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "presidio_analyzer", None)
        with pytest.raises(MissingExtraError, match=r"presidio.*reforge-llm\[clinical\]"):
            Deidentifier(Deidentify())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"philter.*reforge-llm\[clinical\]"):
        load_vocabulary.__wrapped__()
