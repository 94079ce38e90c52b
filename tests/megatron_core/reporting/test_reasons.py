"""Every reason a document can go for has words, with the recipe's own limits."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from typing import Any

import pytest

from megatron_core.config import CurateConfig
from megatron_core.config.corpus.decontaminate import DecontaminateConfig
from megatron_core.data.curation import rules
from megatron_core.reporting.reasons import curate_rule, overlap_rule

ALL_ON = CurateConfig.model_validate(
    {
        "min_characters": 41, "language": {"languages": ["en", "de"], "min_probability": 0.66},
        "gopher_repetition": {"top_n_grams": {2: 0.21}}, "gopher_quality": {"min_doc_words": 51},
        "c4_quality": {"min_num_sentences": 6}, "fineweb_quality": {"new_line_ratio": 0.31},
    }
)  # fmt: skip
RECIPE: dict[str, Any] = json.loads(json.dumps(ALL_ON.identity()))  # as a manifest has it


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("too_short", "shorter than 41 characters"),
        ("language/other", "its language is not one of: en, de"),
        ("language/uncertain", "its language is less probable than 0.66"),
        ("gopher_quality/gopher_short_doc", "fewer than 51 words"),
        ("gopher_quality/empty", "no text was left for it to judge"),
        ("c4_quality/too_few_sentences", "fewer than 6 sentences in the lines that stay"),
        ("fineweb_quality/list_ratio", "more newlines per word than 0.31"),
        (
            "gopher_repetition/top_2_gram",
            "a larger share of the characters in the most frequent 2-gram than 0.21",
        ),
        (
            "gopher_repetition/duplicated_5_n_grams",
            "a larger share of the characters in repeated 5-grams than 0.15",
        ),
    ],
)
def test_a_reason_in_words(reason: str, words: str) -> None:
    assert curate_rule(reason, RECIPE) == words


@pytest.mark.parametrize("reason", ["new_rule", "gopher_quality/gopher_new_rule"])
def test_a_reason_that_is_not_known_has_no_words(reason: str) -> None:
    assert curate_rule(reason, RECIPE) is None


def test_every_reason_of_our_rules_has_words() -> None:
    given = re.findall(r'return "(\w+)"', inspect.getsource(rules))
    assert len(given) == 4
    assert all(curate_rule(reason, RECIPE) for reason in given)


@pytest.mark.parametrize(
    ("section", "module", "kind"),
    [
        ("gopher_repetition", "gopher_repetition_filter", "GopherRepetitionFilter"),
        ("gopher_quality", "gopher_quality_filter", "GopherQualityFilter"),
        ("c4_quality", "c4_filters", "C4QualityFilter"),
        ("fineweb_quality", "fineweb_quality_filter", "FineWebQualityFilter"),
    ],
)
def test_every_reason_of_datatroves_filters_has_words(section: str, module: str, kind: str) -> None:
    if importlib.util.find_spec("datatrove") is None:
        pytest.skip("datatrove is not installed")
    filters = importlib.import_module(f"datatrove.pipeline.filters.{module}")
    source = inspect.getsource(getattr(filters, kind))
    given = [what.replace("{n}", "2" if "top" in what else "5")
             for what in re.findall(r'return False, f?"([^"]+)"', source)]  # fmt: skip
    assert len(given) > 2
    for what in given:
        assert curate_rule(f"{section}/{what}", RECIPE), what


def test_both_limits_of_an_overlap_are_told() -> None:
    config = DecontaminateConfig(max_overlap=0.3, max_covered=0.7, ngram=9)
    told = overlap_rule(config.identity()).replace("\u00a0", " ")
    assert told == (
        "more than 30 % of its 9-grams stand there too, or more than 70 % of those of one text "
        "there stand in it"
    )
