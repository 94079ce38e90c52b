"""The rules that need nothing but the characters."""

from __future__ import annotations

import unicodedata

from megatron_core.config import CurateConfig


def drop_reason(text: str, config: CurateConfig) -> str | None:
    """The first rule that a normalized text fails, or None when it passes all."""
    if len(text) < config.min_characters:
        return "too_short"
    if len(text) > config.max_characters:
        return "too_long"
    if _alphabetic_share(text) < config.min_alphabetic:
        return "few_letters"
    if _repeated_share(text) > config.max_repeated_lines:
        return "repeated_lines"
    return None


def _alphabetic_share(text: str) -> float:
    """The share of letters, their combining marks, and spaces."""
    if not text:
        return 0.0
    count = sum(map(str.isalpha, text)) + sum(map(str.isspace, text))
    if not text.isascii():
        count += sum(unicodedata.category(character)[0] == "M" for character in text)
    return count / len(text)


def _repeated_share(text: str) -> float:
    """The share of lines that repeat an earlier one, blank ones left out."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0
