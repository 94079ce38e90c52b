"""Why a document was taken out, in plain words, with the limits of the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megatron_core.reporting.wording import percent

# By reason; ``{…}`` are values of the section that the reason's first part names, or of `curate`.
_CURATE = {
    "too_short": "shorter than {min_characters} characters",
    "too_long": "longer than {max_characters} characters",
    "few_letters": "a smaller share of letters and spaces than {min_alphabetic}",
    "repeated_lines": "a larger share of repeated lines than {max_repeated_lines}",
    "language/other": "its language is not one of: {languages}",
    "language/uncertain": "its language is less probable than {min_probability}",
    "gopher_repetition/dup_para_frac": "a larger share of repeated paragraphs than {dup_para_frac}",
    "gopher_repetition/dup_para_char_frac": "a larger share of the characters in repeated "
    "paragraphs than {dup_para_char_frac}",
    "gopher_repetition/dup_line_frac": "a larger share of repeated lines than {dup_line_frac}",
    "gopher_repetition/dup_line_char_frac": "a larger share of the characters in repeated lines "
    "than {dup_line_char_frac}",
    "gopher_quality/gopher_short_doc": "fewer than {min_doc_words} words",
    "gopher_quality/gopher_long_doc": "more than {max_doc_words} words",
    "gopher_quality/gopher_below_avg_threshold": "words shorter than {min_avg_word_length} "
    "characters on average",
    "gopher_quality/gopher_above_avg_threshold": "words longer than {max_avg_word_length} "
    "characters on average",
    "gopher_quality/gopher_too_many_hashes": "more hashes per word than {max_symbol_word_ratio}",
    "gopher_quality/gopher_too_many_ellipsis": "more ellipses per word than "
    "{max_symbol_word_ratio}",
    "gopher_quality/gopher_too_many_bullets": "a larger share of lines with a bullet than "
    "{max_bullet_lines_ratio}",
    "gopher_quality/gopher_too_many_end_ellipsis": "a larger share of lines that end with an "
    "ellipsis than {max_ellipsis_lines_ratio}",
    "gopher_quality/gopher_below_alpha_threshold": "a smaller share of words with a letter than "
    "{max_non_alpha_words_ratio}",
    "gopher_quality/gopher_enough_stop_words": "fewer than {min_stop_words} different stop words",
    "c4_quality/lorem_ipsum": "it has lorem ipsum",
    "c4_quality/curly_bracket": "it has a curly bracket",
    "c4_quality/too_few_sentences": "fewer than {min_num_sentences} sentences in the lines that "
    "stay",
    "fineweb_quality/line_punct_ratio": "a smaller share of lines that end with a terminal mark "
    "than {line_punct_thr}",
    "fineweb_quality/short_line_ratio": "a larger share of lines of up to {short_line_length} "
    "characters than {short_line_thr}",
    "fineweb_quality/char_dup_ratio": "a larger share of the characters in repeated lines than "
    "{char_duplicates_ratio}",
    "fineweb_quality/list_ratio": "more newlines per word than {new_line_ratio}",
}
_EMPTY = "no text was left for it to judge"
# Reasons with the n of their n-grams, and the limits by n.
_NGRAMS = (
    (
        re.compile(r"gopher_repetition/top_(\d+)_gram"), "top_n_grams",
        "a larger share of the characters in the most frequent {n}-gram than {limit}",
    ),
    (
        re.compile(r"gopher_repetition/duplicated_(\d+)_n_grams"), "dup_n_grams",
        "a larger share of the characters in repeated {n}-grams than {limit}",
    ),
)  # fmt: skip


def curate_rule(reason: str, recipe: Mapping[str, Any]) -> str | None:
    """What ``reason`` of `curate` says of a document; None for a reason that is not known.

    Args:
        reason: As in ``drops.json``.
        recipe: The stage's section, as its manifest has it.
    """
    part, _, what = reason.partition("/")
    values = recipe.get(part) or recipe
    for pattern, field, words in _NGRAMS:
        if found := pattern.fullmatch(reason):
            return words.format(n=found[1], limit=values[field][found[1]])
    if what == "empty":
        return _EMPTY
    shown = {key: ", ".join(v) if key == "languages" else v for key, v in values.items()}
    return _CURATE[reason].format(**shown) if reason in _CURATE else None


def overlap_rule(recipe: Mapping[str, Any]) -> str:
    """What makes a training document overlap with an evaluation set.

    Args:
        recipe: The section `decontaminate`, as its manifest has it.
    """
    ngram = recipe["ngram"]
    return (
        f"more than {percent(recipe['max_overlap'], 0)} of its {ngram}-grams stand there too, or "
        f"more than {percent(recipe['max_covered'], 0)} of those of one text there stand in it"
    )
