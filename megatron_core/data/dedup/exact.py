"""Texts that are the same but for case, spacing and punctuation."""

from __future__ import annotations

import xxhash


def exact_key(words: list[str]) -> bytes:
    """128-bit xxHash of a text's words: 16 bytes, equal for texts of the same words."""
    return xxhash.xxh3_128_digest(" ".join(words))


def first_of_each(keys: list[bytes]) -> list[int]:
    """For every key the first position with the same key; its own position where it is new."""
    first: dict[bytes, int] = {}
    return [first.setdefault(key, position) for position, key in enumerate(keys)]
