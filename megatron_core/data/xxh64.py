"""xxHash in its 64-bit form, for bytes within a larger array.

Y. Collet, "xxHash fast digest algorithm", specification of XXH64 with seed 0. The library hashes
one Python object a call; here a loop over the slices of a text makes none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@compiled
def hash_slices(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """The hash of every ``data[starts[i] : ends[i]]``: [slices]."""
    hashes = np.empty(len(starts), dtype=np.uint64)
    for i in range(len(starts)):
        hashes[i] = _xxh64(data, starts[i], ends[i])
    return hashes


@compiled
def _xxh64(data: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    place = start
    if end - start >= 32:
        one, two, three, four = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
        while place + 32 <= end:
            one = _round(one, _eight(data, place))
            two = _round(two, _eight(data, place + 8))
            three = _round(three, _eight(data, place + 16))
            four = _round(four, _eight(data, place + 24))
            place += 32
        value = _rotated(one, 1) + _rotated(two, 7) + _rotated(three, 12) + _rotated(four, 18)
        for lane in (one, two, three, four):
            value = (value ^ _round(np.uint64(0), lane)) * _P1 + _P4
    else:
        value = _P5
    value += np.uint64(end - start)
    while place + 8 <= end:
        value ^= _round(np.uint64(0), _eight(data, place))
        value = _rotated(value, 27) * _P1 + _P4
        place += 8
    if place + 4 <= end:
        value ^= _four(data, place) * _P1
        value = _rotated(value, 23) * _P2 + _P3
        place += 4
    while place < end:
        value ^= np.uint64(data[place]) * _P5
        value = _rotated(value, 11) * _P1
        place += 1
    value = (value ^ (value >> np.uint64(33))) * _P2
    value = (value ^ (value >> np.uint64(29))) * _P3
    return value ^ (value >> np.uint64(32))


@compiled
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotated(lane + word * _P2, 31) * _P1


@compiled
def _rotated(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@compiled
def _eight(data: NDArray[np.uint8], place: int) -> np.uint64:
    """Eight bytes from ``place``, the lowest first."""
    # Unsigned places have no negative form to look for, and the compiler sees one load.
    i = np.uint64(place)
    low = (
        np.uint64(data[i])
        | np.uint64(data[i + np.uint64(1)]) << np.uint64(8)
        | np.uint64(data[i + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[i + np.uint64(3)]) << np.uint64(24)
    )
    return (
        low
        | np.uint64(data[i + np.uint64(4)]) << np.uint64(32)
        | np.uint64(data[i + np.uint64(5)]) << np.uint64(40)
        | np.uint64(data[i + np.uint64(6)]) << np.uint64(48)
        | np.uint64(data[i + np.uint64(7)]) << np.uint64(56)
    )


@compiled
def _four(data: NDArray[np.uint8], place: int) -> np.uint64:
    """Four bytes from ``place``, the lowest first."""
    i = np.uint64(place)
    return (
        np.uint64(data[i])
        | np.uint64(data[i + np.uint64(1)]) << np.uint64(8)
        | np.uint64(data[i + np.uint64(2)]) << np.uint64(16)
        | np.uint64(data[i + np.uint64(3)]) << np.uint64(24)
    )
