"""Strict scores of entities, and the baseline of a dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.tuning.tags import Mention, mentions, tags_of
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.intervals import with_interval

Tags = Sequence[Sequence[str]]


def entity_scores(
    tags: Tags, predicted: Tags, groups: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Precision, recall and F1 of entities whose borders and type are both right.

    As the strict mode of seqeval for IOB2: an entity begins with B. Micro is over all entities,
    with 95 % bootstrap intervals of F1 over ``groups``; macro is the mean over the types that
    occur on either side; ``types`` has each one's own. What has no entity scores 0.

    Args:
        tags: The right IOB2 tags of each sentence.
        predicted: The guessed ones.
        groups: The document of each sentence.
        seed: Of the resamples.

    Raises:
        ReforgeError: sentences of another number or length.
    """
    if [len(one) for one in tags] != [len(one) for one in predicted]:
        raise ReforgeError("the predicted tags are not as many as the words")
    sides = [[set(mentions(one)) for one in side] for side in (tags, predicted)]
    types = sorted({found.type for side in sides for one in side for found in one})
    # Right, predicted, true: [sentences, types, 3]
    counts = np.zeros((len(tags), len(types), 3), np.int64)
    for row, (true, guess) in enumerate(zip(*sides, strict=True)):
        for column, found in enumerate((true & guess, guess, true)):
            for one in found:
                counts[row, types.index(one.type), column] += 1
    whole = counts.sum(axis=0)
    by_type = {name: _scores(whole[n]) for n, name in enumerate(types)}
    micro = _scores(whole.sum(axis=0))
    return {
        **{f"micro_{name}": value for name, value in micro.items() if name != "entities"},
        **with_interval(
            "micro_f1", groups, lambda rows: _scores(counts[rows].sum(axis=(0, 1)))["f1"], seed
        ),
        **with_interval(
            "macro_f1",
            groups,
            lambda rows: _macro(counts[rows].sum(axis=0)),
            seed,
        ),
        "entities": micro["entities"],
        "types": by_type,
    }


def dictionary_baseline(
    train_words: Sequence[Sequence[str]], train_tags: Tags, words: Sequence[Sequence[str]]
) -> list[tuple[str, ...]]:
    """Tags of what training sentences have called an entity.

    From left to right the longest run of words that is a training mention is one, of the type it
    has most often there, of equal ones the first by name. Case does not count, unless the mention
    is one word of at most four letters: such are often abbreviations, and words of their own
    otherwise.
    """
    seen: dict[tuple[str, ...], Counter[str]] = {}
    for sentence, tags in zip(train_words, train_tags, strict=True):
        for kind, first, stop in mentions(tags):
            seen.setdefault(_key(sentence[first:stop]), Counter())[kind] += 1
    known = {key: min(kinds, key=lambda kind: (-kinds[kind], kind)) for key, kinds in seen.items()}
    longest = max((len(key) for key in known), default=0)
    return [tags_of(len(sentence), _matches(sentence, known, longest)) for sentence in words]


def _matches(
    sentence: Sequence[str], known: Mapping[tuple[str, ...], str], longest: int
) -> list[Mention]:
    found, at = [], 0
    while at < len(sentence):
        for stop in range(min(len(sentence), at + longest), at, -1):
            if (kind := known.get(_key(sentence[at:stop]))) is not None:
                found.append(Mention(kind, at, stop))
                at = stop - 1
                break
        at += 1
    return found


def _key(words: Sequence[str]) -> tuple[str, ...]:
    if len(words) == 1 and len(words[0]) <= 4:
        return (words[0],)
    return tuple(word.casefold() for word in words)


def _scores(counts: NDArray[np.int64]) -> dict[str, float]:
    right, predicted, true = (int(count) for count in counts)
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (predicted + true) if predicted + true else 0.0,
        "entities": true,
    }


def _macro(counts: NDArray[np.int64]) -> float:
    found = [_scores(one)["f1"] for one in counts if one.any()]
    return sum(found) / len(found) if found else 0.0
