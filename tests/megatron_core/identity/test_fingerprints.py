"""The log of checksums: what was written comes back, and the first difference is the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megatron_core.errors import IntegrityError
from megatron_core.identity.fingerprints import (
    Divergence,
    FingerprintLog,
    Fingerprints,
    first_divergence,
    has_fingerprints,
    read_fingerprints,
)

NAMES = ["embedding.weight/0", "layers.0.query.weight/0", "layers.0.query.weight/1", "norm/0"]
LARGEST = 2**63 - 1


def number(step: int, column: int, kind: int) -> int:
    """A value that no two places of the log share; some lie at the ends of int64."""
    return (step * 1_000_003 + column * 101 + kind) * (-1) ** step + (LARGEST - 10**9) * (step % 2)


def write(folder: Path, steps: list[int]) -> FingerprintLog:
    log = FingerprintLog(folder, NAMES)
    for step in steps:
        log.append(
            step,
            [number(step, column, 0) for column in range(len(NAMES))],
            [number(step, column, 1) for column in range(len(NAMES))],
        )
    return log


def as_lists(found: Fingerprints) -> list[tuple[int, list[int], list[int]]]:
    return [
        (int(step), [int(x) for x in gradients], [int(x) for x in weights])
        for step, gradients, weights in zip(
            found.steps, found.gradients, found.weights, strict=True
        )
    ]


def expected(steps: list[int]) -> list[tuple[int, list[int], list[int]]]:
    return [
        (step, *([number(step, column, kind) for column in range(len(NAMES))] for kind in (0, 1)))  # type: ignore[misc]
        for step in steps
    ]


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    assert not has_fingerprints(tmp_path)
    write(tmp_path, [1, 2, 5])
    write(tmp_path, [6])  # a log is continued
    assert has_fingerprints(tmp_path)
    found = read_fingerprints(tmp_path)
    assert found.names == tuple(NAMES)
    assert as_lists(found) == expected([1, 2, 5, 6])


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    log = write(tmp_path, [])
    log.cut(0)
    assert as_lists(read_fingerprints(tmp_path)) == []


@pytest.mark.parametrize("torn", range(1, 72, 10))
@pytest.mark.parametrize("up_to", [0, 2, 9])
def test_a_cut_log_goes_on_as_if_nothing_had_happened(
    up_to: int, torn: int, tmp_path: Path
) -> None:
    write(tmp_path, [1, 2, 3, 4])
    path = tmp_path / "fingerprints.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    assert as_lists(read_fingerprints(tmp_path)) == expected([1, 2, 3])
    log = write(tmp_path, [])
    log.cut(up_to)
    kept = min(up_to, 3)
    assert as_lists(read_fingerprints(tmp_path)) == expected([1, 2, 3][:kept])
    write(tmp_path, [1, 2, 3, 4][kept:])
    assert path.read_bytes() == whole


def test_rows_that_a_power_failure_left_empty_are_none(tmp_path: Path) -> None:
    log = write(tmp_path, [1, 2, 3, 4])
    path = tmp_path / "fingerprints.bin"
    content = path.read_bytes()
    row = len(content) // 4
    path.write_bytes(content[: 2 * row] + bytes(row) + content[3 * row :])
    assert as_lists(read_fingerprints(tmp_path)) == expected([1, 2])
    log.cut(9)
    assert path.read_bytes() == content[: 2 * row]


def test_a_log_of_other_tensors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [1])
    with pytest.raises(IntegrityError, match=r"fingerprints.json is of other tensors .* delete it"):
        FingerprintLog(tmp_path, NAMES[:-1])
    with pytest.raises(IntegrityError, match="is of other tensors"):
        FingerprintLog(tmp_path, NAMES[::-1])


def test_a_log_without_description_is_begun_anew(tmp_path: Path) -> None:
    write(tmp_path, [1, 2])
    (tmp_path / "fingerprints.json").unlink()
    with pytest.raises(IntegrityError, match="has no fingerprints: train with fingerprint_every"):
        read_fingerprints(tmp_path)
    write(tmp_path, [1])
    assert as_lists(read_fingerprints(tmp_path)) == expected([1])


@pytest.mark.parametrize("content", ["", "{", '{"format": 2, "names": []}', '{"names": []}'])
def test_a_damaged_description_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "fingerprints.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"fingerprints.json is no description"):
        read_fingerprints(tmp_path)


def test_wrong_numbers_of_checksums_are_an_error_of_the_caller(tmp_path: Path) -> None:
    log = write(tmp_path, [1])
    for short in ([0] * (len(NAMES) - 1), [0], 0):
        with pytest.raises(ValueError, match="4 checksums of each kind"):
            log.append(2, [0] * len(NAMES), short)
    assert as_lists(read_fingerprints(tmp_path)) == expected([1])


def log_of(steps: list[int], changes: dict[tuple[int, str, int], int]) -> Fingerprints:
    """Equal numbers everywhere, but for ``changes`` at (step, kind, column)."""
    table = {
        kind: np.arange(len(steps) * len(NAMES), dtype=np.int64).reshape(len(steps), -1) * 0 + 7
        for kind in ("weights", "gradient")
    }
    for (step, kind, column), value in changes.items():
        table[kind][steps.index(step), column] = value
    return Fingerprints(tuple(NAMES), np.array(steps), table["weights"], table["gradient"])


EVERY = list(range(1, 601))


@pytest.mark.parametrize(
    ("changes", "step", "kind", "column", "shards"),
    [
        ({(9, "gradient", 2): 1}, 9, "gradient", 2, 1),
        ({(9, "weights", 2): 1}, 9, "weights", 2, 1),
        # Several at one step: the weights came first, then the order of the log.
        ({(9, "gradient", 0): 1, (9, "weights", 1): 1, (9, "weights", 3): 2}, 9, "weights", 1, 2),
        ({(9, "gradient", 1): 1, (10, "weights", 0): 1}, 9, "gradient", 1, 1),
        ({(1, "gradient", 3): 1}, 1, "gradient", 3, 1),
        # Beyond the first part of a long log, and at the edge of one.
        ({(256, "gradient", 0): 1, (257, "weights", 0): 1}, 256, "gradient", 0, 1),
        ({(257, "weights", 0): 1, (600, "weights", 0): 1}, 257, "weights", 0, 1),
        ({(600, "gradient", 3): 1}, 600, "gradient", 3, 1),
    ],
)  # fmt: skip
def test_the_first_difference(
    changes: dict[tuple[int, str, int], int], step: int, kind: str, column: int, shards: int
) -> None:
    ours, theirs = log_of(EVERY, {}), log_of(EVERY, changes)
    found = first_divergence(ours, theirs)
    agreed = step - 1 or None
    assert found == Divergence(step, NAMES[column], kind, shards, agreed)  # type: ignore[arg-type]
    assert first_divergence(theirs, ours) == found


def test_only_common_steps_are_compared() -> None:
    ours = log_of([2, 4, 6, 8, 10], {(4, "gradient", 0): 1, (10, "gradient", 1): 1})
    theirs = log_of([5, 6, 7, 8, 9, 10], {(7, "weights", 0): 1})
    found = first_divergence(ours, theirs)
    assert found == Divergence(10, NAMES[1], "gradient", 1, 8)


def test_logs_that_agree_or_cannot_be_compared() -> None:
    ours = log_of([1, 2], {})
    assert first_divergence(ours, log_of([1, 2, 3], {(3, "weights", 0): 1})) is None
    assert first_divergence(ours, log_of([3], {})) == "they recorded no step in common"
    other = Fingerprints((*NAMES[:-1], "bias/0"), ours.steps, ours.weights, ours.gradients)
    assert first_divergence(ours, other) == "they log other tensors: bias/0, norm/0"
