"""Our use of datatrove's filters against datatrove's own pipeline on the same documents."""

from __future__ import annotations

import inspect
import random
from typing import Any

import pytest

pytest.importorskip("spacy", reason="the extra `curation` is not installed")

from datatrove.data import Document
from datatrove.pipeline import filters
from datatrove.utils.word_tokenizers import SpaCyTokenizer, load_word_tokenizer

from megatron_core.config import CurateConfig
from megatron_core.config.corpus.curate import (
    C4Quality,
    Deidentify,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
)
from megatron_core.data.curation import words
from megatron_core.data.curation.quality import QualityFilters, build_filter
from megatron_core.data.curation.words import ZonedSpaCyTokenizer, word_tokenizer
from megatron_core.errors import ConfigError

SECTIONS: dict[str, tuple[Any, Any]] = {
    "gopher_repetition": (GopherRepetition, filters.GopherRepetitionFilter),
    "gopher_quality": (GopherQuality, filters.GopherQualityFilter),
    "c4_quality": (C4Quality, filters.C4QualityFilter),
    "fineweb_quality": (FineWebQuality, filters.FineWebQualityFilter),
}
NOUNS = [
    "fever",
    "cough",
    "patient",
    "nurse",
    "river",
    "window",
    "physician",
    "machine",
    "garden",
    "don't",
    "U.S.",
    "naïve",
]
VERBS = [
    "treats",
    "sees",
    "follows",
    "the",
    "and",
    "with",
    "of",
    "to",
    "examines",
    "shouldn't",
    "wakes",
]


def sentence(draw: random.Random) -> str:
    words = [draw.choice((NOUNS, VERBS)[i % 2]) for i in range(draw.randint(2, 12))]
    end = draw.choice([".", ".", ".", "?", "!", "...", "…", " [3].", '."', "", ":", " 37.5°C."])
    return " ".join(words).capitalize() + end


def line(draw: random.Random) -> str:
    return draw.choice(
        [
            " ".join(sentence(draw) for _ in range(draw.randint(1, 6))),
            "- " + sentence(draw),
            "• " + sentence(draw),
            "# # #",
            "Short",
            "12 34 56",
            "Read the terms of use and the privacy policy here.",
            "Please switch on JavaScript to see this page.",
            "x" * 30 + "🙂 שלום עולם.",
        ]
    )


def texts(seed: int, count: int) -> list[str]:
    """Texts of which each rule drops some and keeps some."""
    draw = random.Random(seed)
    made = ["word", "Lorem ipsum dolor sit amet. " * 9, "A { in it. " * 9, "IS_ALPHA in a text."]
    for _ in range(count):
        kind, common = draw.random(), [line(draw) for _ in range(3)]
        lines = [
            draw.choice(common)
            if kind < 0.3
            else line(draw)
            if kind < 0.6
            else " ".join(sentence(draw) for _ in range(6))
            for _ in range(draw.randint(1, 25))
        ]
        made.append(draw.choice(["\n", "\n", "\n\n"]).join(lines).strip())
    return made


def theirs(quality: Any, documents: list[Document]) -> dict[str, tuple[str, str | None]]:
    """What datatrove's step does: text and reason by id."""

    class Dropped:
        """An exclusion writer that keeps what it is given."""

        def __enter__(self) -> Dropped:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, document: Document, rank: int) -> None:
            found[document.id] = (document.text, document.metadata["filter_reason"])

    load_word_tokenizer("eng").word_tokenize("IS_ALPHA")  # only the very first is split otherwise
    found: dict[str, tuple[str, str | None]] = {}
    quality.exclusion_writer = Dropped()
    for document in quality.run(iter(documents)):
        found[document.id] = (document.text, None)
    return found


@pytest.mark.parametrize("name", SECTIONS)
def test_the_defaults_are_datatroves(name: str) -> None:
    section, quality = SECTIONS[name]
    expected = {
        key: parameter.default
        for key, parameter in inspect.signature(quality).parameters.items()
        if key != "exclusion_writer"
    }
    ours = {key: field.default for key, field in section.model_fields.items()}
    for key, value in ours.items():
        ours[key] = tuple(value.items()) if isinstance(value, dict) else value
    assert ours == expected


@pytest.mark.parametrize("name", SECTIONS)
def test_each_filter_keeps_and_drops_what_datatroves_does(name: str) -> None:
    section, quality = SECTIONS[name]
    documents = texts(seed=7, count=60)
    expected = theirs(
        quality(), [Document(text=text, id=str(i)) for i, text in enumerate(documents)]
    )
    ours = QualityFilters(CurateConfig(**{name: section()}))
    for i, text in enumerate(documents):
        judged = ours.judge(text)
        kept, reason = expected[str(i)]
        assert judged.reason == (reason and f"{name}/{reason}")
        if reason is None:
            assert judged.text == kept
    reasons = {reason for _, reason in expected.values()}
    assert None in reasons and len(reasons) > 3


def test_all_filters_in_a_row_do_what_datatroves_pipeline_does() -> None:
    documents = texts(seed=8, count=80)
    easy: dict[str, dict[str, Any]] = {
        "gopher_repetition": {"dup_line_frac": 0.6, "top_n_grams": {2: 0.5}, "dup_n_grams": {}},
        "gopher_quality": {"min_doc_words": 20, "min_stop_words": None},
        "c4_quality": {"min_num_sentences": 2, "filter_no_terminal_punct": False},
        "fineweb_quality": {"char_duplicates_ratio": 0.3, "stop_chars": [".", "!"]},
    }
    config = CurateConfig.model_validate(easy)
    easy["gopher_repetition"] |= {"top_n_grams": ((2, 0.5),), "dup_n_grams": ()}
    easy["fineweb_quality"] |= {"stop_chars": (".", "!")}
    left = [Document(text=text, id=str(i)) for i, text in enumerate(documents)]
    expected: dict[str, tuple[str, str | None]] = {}
    for name, (_, quality) in SECTIONS.items():
        found = theirs(quality(**easy[name]), left)
        expected |= {i: (text, why and f"{name}/{why}") for i, (text, why) in found.items()}
        left = [document for document in left if found[document.id][1] is None]
    ours = QualityFilters(config)
    for i, text in enumerate(documents):
        judged, (kept, reason) = ours.judge(text), expected[str(i)]
        assert judged.reason == reason
        assert judged.text == kept or reason
    assert 5 < len(left) < 80


@pytest.mark.parametrize("language", ["eng", "deu"])
def test_words_and_sentences_do_not_depend_on_the_texts_before(
    language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_CALLS_PER_ZONE", 7)
    stock = load_word_tokenizer(language)
    assert type(stock) is SpaCyTokenizer
    stock.word_tokenize("IS_ALPHA")  # only the first text of all is split otherwise
    ours = ZonedSpaCyTokenizer(stock.language, stock.config)
    for text in texts(seed=9, count=40):
        assert ours.word_tokenize(text) == stock.word_tokenize(text)
        assert ours.span_tokenize(text) == stock.span_tokenize(text)


def test_no_words_are_split_that_datatrove_cannot_split() -> None:
    with pytest.raises(ConfigError, match="no words for the language 'klingon'"):
        build_filter(GopherQuality(language="klingon"))
    assert word_tokenizer("eng") is word_tokenizer("eng")


def test_a_text_without_a_line_left_is_dropped() -> None:
    config = CurateConfig(c4_quality=C4Quality(min_num_sentences=-1), gopher_quality=None,
                          fineweb_quality=FineWebQuality())  # fmt: skip
    assert QualityFilters(config).judge("no full stop").reason == "fineweb_quality/empty"


def test_a_placeholder_is_a_word() -> None:
    text = "[**NAME-1**] wrote to [**NAME-2**] on [**DATE-1**] and to [**NAME**] later."
    section = GopherQuality(min_doc_words=10, max_doc_words=10, min_stop_words=None)
    assert QualityFilters(CurateConfig(gopher_quality=section)).judge(text).reason is not None
    config = CurateConfig(gopher_quality=section, deidentify=Deidentify())
    assert QualityFilters(config).judge(text).reason is None
    assert QualityFilters(config).judge(text).text == text
