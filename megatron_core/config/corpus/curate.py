"""The ``curate`` section."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from megatron_core.config.section import Section

PhiClass = Literal[
    "NAME", "LOCATION", "DATE", "AGE", "PHONE", "FAX", "EMAIL", "SSN", "MRN", "HEALTH_PLAN",
    "ACCOUNT", "LICENSE", "VEHICLE", "DEVICE", "URL", "IP", "BIOMETRIC", "ID",
]  # fmt: skip
PHI_CLASSES: tuple[PhiClass, ...] = get_args(PhiClass)


class Language(Section):
    """Keep documents in some languages, as py3langid's model tells them (97, by ISO 639-1)."""

    languages: list[str] = Field(min_length=1, description="Codes of those kept, such as en")
    min_probability: float = Field(
        0.65, ge=0, le=1, description="Smallest probability of the most probable language"
    )
    characters: int = Field(
        4000, ge=1, description="Characters from the start of a document that are looked at"
    )


class GopherRepetition(Section):
    """datatrove's rules on repetition of Gopher (Rae et al., 2021, table A1); null is no limit."""

    dup_line_frac: float | None = Field(0.3, description="Largest share of repeated lines")
    dup_para_frac: float | None = Field(0.3, description="Largest share of repeated paragraphs")
    dup_line_char_frac: float | None = Field(
        0.2, description="Largest share of the characters in repeated lines"
    )
    dup_para_char_frac: float | None = Field(
        0.2, description="Largest share of the characters in repeated paragraphs"
    )
    top_n_grams: dict[int, float] = Field(
        {2: 0.2, 3: 0.18, 4: 0.16},
        description="Largest share of the characters in the most frequent n-gram, by n in words",
    )
    dup_n_grams: dict[int, float] = Field(
        {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="Largest share of the characters in repeated n-grams, by n in words",
    )
    language: str = Field("eng", description="Whose words are split, as datatrove names it")


class GopherQuality(Section):
    """datatrove's quality rules of Gopher (Rae et al., 2021); null is no limit."""

    min_doc_words: int | None = Field(50, description="Fewest words, marks left out")
    max_doc_words: int | None = Field(100_000, description="Most words, marks left out")
    min_avg_word_length: float | None = Field(3, description="Shortest mean word, in characters")
    max_avg_word_length: float | None = Field(10, description="Longest mean word, in characters")
    max_symbol_word_ratio: float | None = Field(
        0.1, description="Most hashes, and most ellipses, per word"
    )
    max_bullet_lines_ratio: float | None = Field(
        0.9, description="Largest share of lines that start with a bullet"
    )
    max_ellipsis_lines_ratio: float | None = Field(
        0.3, description="Largest share of lines that end with an ellipsis"
    )
    max_non_alpha_words_ratio: float | None = Field(
        0.8, description="Smallest share of words with a letter (the name is datatrove's)"
    )
    min_stop_words: int | None = Field(2, description="Fewest different stop words")
    stop_words: list[str] | None = Field(
        None, description="The stop words; null takes Gopher's eight English ones"
    )
    language: str = Field("eng", description="Whose words are split, as datatrove names it")


class C4Quality(Section):
    """datatrove's rules of C4 (Raffel et al., 2020), which drop lines as well as documents."""

    split_paragraph: bool = Field(True, description="Look at lines; false looks at sentences")
    remove_citations: bool = Field(True, description="Take out marks such as [3] or [edit]")
    filter_no_terminal_punct: bool = Field(True, description="Drop lines without a full stop")
    min_num_sentences: int = Field(5, description="Fewest sentences left; -1 is no limit")
    min_words_per_line: int = Field(3, description="Fewest words of a line; -1 is no limit")
    max_word_length: int = Field(
        1000, description="Longest word of a line, in characters; -1 is no limit"
    )
    filter_lorem_ipsum: bool = Field(True, description="Drop documents with lorem ipsum")
    filter_javascript: bool = Field(True, description="Drop lines that mention javascript")
    filter_curly_bracket: bool = Field(True, description="Drop documents with a {")
    filter_policy: bool = Field(True, description="Drop lines on cookies and terms of use")
    language: str = Field("eng", description="Whose sentences are split, as datatrove names it")


class FineWebQuality(Section):
    """datatrove's own rules of FineWeb (Penedo et al., 2024)."""

    line_punct_thr: float = Field(
        0.12, description="Smallest share of lines that end with a terminal mark"
    )
    line_punct_exclude_zero: bool = Field(
        False, description="Keep documents in which no line ends with a terminal mark"
    )
    stop_chars: list[str] | None = Field(
        None, description="Terminal marks; null takes datatrove's, of many scripts"
    )
    short_line_thr: float = Field(0.67, description="Largest share of short lines")
    short_line_length: int = Field(30, description="Longest line that is short, in characters")
    char_duplicates_ratio: float = Field(
        0.01, description="Largest share of the characters in repeated lines"
    )
    new_line_ratio: float = Field(0.3, description="Most newlines per word")
    language: str = Field("eng", description="Whose words are split, as datatrove names it")


class Deidentify(Section):
    """Replace the identifiers of HIPAA's Safe Harbor by placeholders such as [**NAME**]."""

    classes: list[PhiClass] = Field(list(PHI_CLASSES), min_length=1, description="What is replaced")
    consistent: bool = Field(
        False, description="Number placeholders within a document: one name, one [**NAME-1**]"
    )
    region: str = Field(
        "US", pattern="^[A-Z]{2}$", description="Country whose phone numbers need no prefix"
    )


class CurateConfig(Section):
    """Normalize texts and drop those that fail a quality rule; each drop has a reason."""

    min_characters: int = Field(40, ge=0, description="Shortest document kept")
    max_characters: int = Field(1_000_000, ge=1, description="Longest document kept")
    min_alphabetic: float = Field(
        0.5, ge=0, le=1, description="Smallest share of letters and spaces among the characters"
    )
    max_repeated_lines: float = Field(
        0.5, ge=0, le=1, description="Largest share of lines that repeat an earlier line"
    )
    language: Language | None = Field(None, description="Which languages stay; null keeps all")
    deidentify: Deidentify | None = Field(
        None, description="What identifies a person is replaced; null replaces nothing"
    )
    gopher_repetition: GopherRepetition | None = Field(
        None, description="Gopher's rules on repetition; null leaves them out"
    )
    gopher_quality: GopherQuality | None = Field(
        None, description="Gopher's quality rules; null leaves them out"
    )
    c4_quality: C4Quality | None = Field(None, description="C4's rules; null leaves them out")
    fineweb_quality: FineWebQuality | None = Field(
        None, description="FineWeb's rules; null leaves them out"
    )
