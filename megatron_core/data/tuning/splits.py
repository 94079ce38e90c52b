"""Which examples train and which test, so that no group is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from megatron_core.data.tuning.reading import load_json, read_text
from megatron_core.errors import ConfigError, CorpusError

_STEPS = 1 << 64


def split_by_group(groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """The part that each example goes to.

    A hash of (seed, group) decides, so a group is in one part whatever else the file holds, and
    stays there as the file grows. Shares are of groups and met in the mean alone.

    Args:
        groups: Of each example, such as its patient.
        shares: Of each part, in the order in which the hash's range is dealt out; they add to 1.
        seed: Another one is another split.

    Raises:
        ConfigError: shares that are negative or do not add to 1.
        CorpusError: a part gets no group.
    """
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares must not be negative and add to 1: {dict(shares)}")
    parts = {group: _part(group, shares, seed) for group in dict.fromkeys(groups)}
    for name, share in shares.items():
        if share > 0 and name not in parts.values():
            raise CorpusError(
                f"no group falls into {name!r}, a share of {share:g} of {len(parts)} groups: "
                "give it more, or another seed"
            )
    return [parts[group] for group in groups]


def split_by_value(values: Sequence[str | None], held: Collection[str]) -> list[bool]:
    """Whether each example is held out: those with one of the values ``held`` of a field.

    With ids of an official test set, or one hospital of several, to leave it out.

    Raises:
        CorpusError: a value of ``held`` does not occur, or nothing is left to train on.
    """
    if missing := sorted(set(held) - {value for value in values if value is not None}):
        raise CorpusError(
            f"{len(missing)} of {len(set(held))} values to hold out do not occur, "
            f"such as {missing[0]!r}"
        )
    found = [value in held for value in values]
    if all(found):
        raise CorpusError("every example would be held out, and none trains")
    return found


def check_apart(parts: Mapping[str, Sequence[str | None]]) -> None:
    """Whether no group is in two of the given parts, such as files.

    Raises:
        CorpusError: names a group and its parts.
    """
    owner: dict[str, str] = {}
    for name, groups in parts.items():
        for group in dict.fromkeys(groups):
            if group is not None and owner.setdefault(group, name) != name:
                raise CorpusError(
                    f"the group {group!r} is in {owner[group]!r} and in {name!r}: split by group"
                )


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids a file lists: a line each, or in JSON a list or the keys of an object.

    Raises:
        CorpusError: the file cannot be read or lists none.
    """
    text = read_text(path)
    if path.name.endswith(".json"):
        value = load_json(text, str(path))
        ids = [str(one) for one in value] if isinstance(value, (list, dict)) else []
    else:
        ids = [line.strip() for line in text.split("\n") if line.strip()]
    if not ids:
        raise CorpusError(f"{path} lists no ids")
    return tuple(ids)


def _part(group: str, shares: Mapping[str, float], seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8, person=b"split").digest()
    place = int.from_bytes(digest, "little") / _STEPS
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if place < edge:
            return name
    return [name for name, share in shares.items() if share > 0][-1]
