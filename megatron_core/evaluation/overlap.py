"""The longest runs of tokens that given sequences share with a stream of any length.

A suffix automaton (Blumer et al., 1985) of the sequences reads the stream once: exact, in time
linear in both, and in memory linear in the sequences alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.compiled import compiled

_CHUNK = 1 << 20  # tokens read at a time
_BETWEEN = 0  # stands between sequences, and in no stream: their tokens are counted from 1

Numbers = NDArray[np.int64]


class Overlaps:
    """What ``sequences`` share with the streams that :meth:`read` is given."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        """``sequences`` of tokens from 0; about 100 bytes are held for each of their tokens."""
        joined: list[int] = []
        self._starts = []
        for sequence in sequences:
            self._starts.append(len(joined))
            joined += [token + 1 for token in sequence]
            joined.append(_BETWEEN)
        self._lengths = [len(sequence) for sequence in sequences]
        self._automaton = _build(np.array(joined, np.int64))
        self._best = np.zeros(len(self._automaton[1]), np.int64)

    def read(self, streams: Iterable[NDArray[Any]]) -> None:
        """Look for the sequences in further streams of tokens, any integers ``[tokens]`` from 0."""
        _, link, length, slots, edges = self._automaton
        for stream in streams:
            place = (0, 0)
            for start in range(0, len(stream), _CHUNK):
                tokens = np.asarray(stream[start : start + _CHUNK], np.int64) + 1
                place = _read(tokens, *place, link, length, slots, edges, self._best)

    def ending(self) -> list[Numbers]:
        """For each sequence, the length of the longest shared run that ends at each token."""
        ends, link, length, _, _ = self._automaton
        reached = _reached(self._best, link, length)
        found = reached[ends]
        return [
            found[start : start + size]
            for start, size in zip(self._starts, self._lengths, strict=True)
        ]


@compiled
def _build(
    tokens: Numbers,
) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers]:
    """The suffix automaton of ``tokens``, from 0.

    Returns:
        The state of each prefix, ``[tokens]``; suffix link and longest length of each state; and
        the edges, ``[edges, 4]`` of state, token, target and the state's next edge, with a table
        of their numbers by hash.
    """
    n = len(tokens)
    link, length = np.full(2 * n + 2, -1, np.int64), np.zeros(2 * n + 2, np.int64)
    head = np.full(2 * n + 2, -1, np.int64)
    edges = np.zeros((3 * n + 4, 4), np.int64)
    bits = 4
    while 1 << bits < 2 * len(edges):
        bits += 1
    slots = np.full(1 << bits, -1, np.int64)
    ends = np.empty(n, np.int64)
    states, count, last = 1, 0, 0
    for i in range(n):
        token = tokens[i]
        new = states
        states += 1
        length[new] = length[last] + 1
        state = last
        while state >= 0 and slots[_slot(slots, edges, state, token)] < 0:
            count = _connect(slots, edges, head, count, state, token, new)
            state = link[state]
        if state < 0:
            link[new] = 0
        else:
            target = edges[slots[_slot(slots, edges, state, token)], 2]
            if length[target] == length[state] + 1:
                link[new] = target
            else:
                clone = states
                states += 1
                length[clone], link[clone] = length[state] + 1, link[target]
                edge = head[target]
                while edge >= 0:
                    count = _connect(
                        slots, edges, head, count, clone, edges[edge, 1], edges[edge, 2]
                    )
                    edge = edges[edge, 3]
                while state >= 0:
                    edge = slots[_slot(slots, edges, state, token)]
                    if edge < 0 or edges[edge, 2] != target:
                        break
                    edges[edge, 2] = clone
                    state = link[state]
                link[target] = link[new] = clone
        ends[i] = last = new
    return ends, link[:states].copy(), length[:states].copy(), slots, edges


@compiled
def _slot(slots: Numbers, edges: Numbers, state: int, token: int) -> int:
    """Where the edge of ``state`` by ``token`` stands in the table, or would stand."""
    mask = len(slots) - 1
    mixed = state * 0x9E3779B1 + token * 0x85EBCA77
    mixed ^= mixed >> 29
    place = (mixed * 0xC2B2AE3D ^ mixed >> 17) & mask
    while slots[place] >= 0:
        edge = slots[place]
        if edges[edge, 0] == state and edges[edge, 1] == token:
            break
        place = (place + 1) & mask
    return place


@compiled
def _connect(
    slots: Numbers, edges: Numbers, head: Numbers, count: int, state: int, token: int, target: int
) -> int:
    """Add an edge; how many there are now."""
    edges[count, 0], edges[count, 1], edges[count, 2] = state, token, target
    edges[count, 3] = head[state]
    head[state] = count
    slots[_slot(slots, edges, state, token)] = count
    return count + 1


@compiled
def _read(
    tokens: Numbers,
    state: int,
    matched: int,
    link: Numbers,
    length: Numbers,
    slots: Numbers,
    edges: Numbers,
    best: Numbers,
) -> tuple[int, int]:
    """Read on from ``state``, where ``matched`` tokens match; note the longest of each state."""
    for i in range(len(tokens)):
        edge = slots[_slot(slots, edges, state, tokens[i])]
        while edge < 0 and state > 0:
            state = link[state]
            matched = length[state]
            edge = slots[_slot(slots, edges, state, tokens[i])]
        if edge >= 0:
            state = edges[edge, 2]
            matched += 1
            best[state] = max(best[state], matched)
    return state, matched


@compiled
def _reached(best: Numbers, link: Numbers, length: Numbers) -> Numbers:
    """The longest match among each state and those its links lead to: ``[states]``."""
    order = np.argsort(length)
    found = best.copy()
    for i in range(len(order) - 1, 0, -1):  # what matched in a state matched its link entirely
        state = order[i]
        if found[state] > 0 and link[state] > 0:
            found[link[state]] = length[link[state]]
    for i in range(1, len(order)):
        state = order[i]
        if found[state] == 0:
            found[state] = found[link[state]]
    return found
