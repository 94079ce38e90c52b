"""Flash attention (Dao, 2023): the scores live in tiles and are made again on the way back.

Gradients of the queries go by blocks of queries and those of keys and values by blocks of keys, in
passes of their own. A sum is thus one program's, in one order; the usual single pass is faster and
adds from many programs at once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.attention import reference
from kernels.triton import SUPPORT, blocks, jit, power_of_two, product, tl

__all__ = ["SUPPORT", "attention"]

_LARGEST = 256  # head size whose tiles fit


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """As the reference, which itself computes with a mask that is ``seen`` and with larger heads.

    Scores and sums are fp32; of halves, the shares are halves where they multiply.
    """
    if seen is not None or query.shape[3] > _LARGEST:
        return reference.attention(query, key, value, causal=causal, window=window, seen=seen)
    mixed: Tensor = _Attention.apply(query, key, value, causal, window)
    return mixed


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, window: int | None
    ) -> Tensor:
        inputs = [x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value)]
        length, batch, heads, _ = query.shape
        mixed = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        logarithms = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
        ctx.causal, ctx.window = causal, len(key) if window is None else window
        constants = _constants(query)
        _forward[(batch * heads, blocks(length, constants["ROWS"]))](
            *inputs, mixed, logarithms, *_numbers(inputs, ctx.window), CAUSAL=causal, **constants
        )
        ctx.save_for_backward(*inputs, mixed, logarithms)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        *inputs, mixed, logarithms = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        length, batch, heads, _ = mixed.shape
        keys, _, key_heads, _ = inputs[1].shape
        of_query, of_key, of_value = (
            torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs
        )
        along = torch.empty_like(logarithms)
        numbers, constants = _numbers(inputs, ctx.window), _constants(mixed)
        # First, since it leaves `along` for the second.
        _query_backward[(batch * heads, blocks(length, constants["ROWS"]))](
            *inputs, mixed, upstream, logarithms, along, of_query, *numbers,
            CAUSAL=ctx.causal, **constants,
        )  # fmt: skip
        _key_backward[(batch * key_heads, blocks(keys, constants["COLUMNS"]))](
            *inputs, upstream, logarithms, along, of_key, of_value, *numbers,
            CAUSAL=ctx.causal, **constants,
        )  # fmt: skip
        return of_query, of_key, of_value, None, None


def _numbers(inputs: list[Tensor], window: int) -> tuple[float, ...]:
    """Shapes, scale and strides, in the kernels' order."""
    query, key, _ = inputs
    length, batch, heads, size = query.shape
    strides = [x.stride(i) for x in inputs for i in range(3)]
    groups = heads // key.shape[2]
    return length, len(key), batch, heads, groups, size, window, 1 / math.sqrt(size), *strides


def _constants(query: Tensor) -> dict[str, int]:
    """Of tiles that fit a GPU's shared memory: at most 16 KiB each."""
    padded = max(16, power_of_two(query.shape[3]))
    side = 64 if padded * query.element_size() <= 256 else 32
    return {
        "ROWS": side, "COLUMNS": side, "PADDED": padded, "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


@jit
def _load(x, row, rows, stride, size, PADDED: tl.constexpr):
    """The numbers ``[row, PADDED]`` of a head; zeros past its end."""
    place = tl.arange(0, PADDED)[None, :]
    there = (row[:, None] < rows) & (place < size)
    return tl.load(x + row[:, None].to(tl.int64) * stride + place, mask=there, other=0.0)


@jit
def _store(x, row, rows, stride, size, numbers, PADDED: tl.constexpr):
    place = tl.arange(0, PADDED)[None, :]
    there = (row[:, None] < rows) & (place < size)
    target = x + row[:, None].to(tl.int64) * stride + place
    tl.store(target, numbers.to(x.dtype.element_ty), mask=there)


@jit
def _scores(query, key, row, column, length, keys, window, scale, CAUSAL: tl.constexpr):
    """Of a tile; -inf where a query does not see a key, or where there is none."""
    scores = product(query, tl.trans(key)) * scale
    seen = (row[:, None] < length) & (column[None, :] < keys)
    if CAUSAL:
        last = row[:, None] + (keys - length)
        seen = seen & (column[None, :] <= last) & (column[None, :] > last - window)
    return tl.where(seen, scores, float("-inf"))


@jit
def _keys_of(start, length, keys, window, CAUSAL: tl.constexpr, ROWS: tl.constexpr,
             COLUMNS: tl.constexpr):  # fmt: skip
    """From and to which key the queries of a block see any."""
    low, high = 0, keys
    if CAUSAL:
        low = tl.maximum(start + (keys - length) + 1 - window, 0) // COLUMNS * COLUMNS
        high = tl.minimum(start + (keys - length) + ROWS, keys)
    return low, high


@jit
def _forward(
    query, key, value, mixed, logarithms,
    length, keys, batches, heads, groups, size, window, scale,
    query_row, query_batch, query_head, key_row, key_batch, key_head,
    value_row, value_batch, value_head,
    CAUSAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    pair, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    batch, head = pair // heads, pair % heads
    row = start + tl.arange(0, ROWS)
    asking = _load(
        query + batch * query_batch + head * query_head, row, length, query_row, size, PADDED
    )
    largest = tl.full((ROWS,), -1e30, dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    mix = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    low, high = _keys_of(start, length, keys, window, CAUSAL, ROWS, COLUMNS)
    for first in range(low, high, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        held = _load(
            key + batch * key_batch + head // groups * key_head,
            column, keys, key_row, size, PADDED,
        )  # fmt: skip
        scores = _scores(asking, held, row, column, length, keys, window, scale, CAUSAL)
        above = tl.maximum(largest, tl.max(scores, axis=1))
        shares, fade = tl.exp(scores - above[:, None]), tl.exp(largest - above)
        told = _load(
            value + batch * value_batch + head // groups * value_head,
            column, keys, value_row, size, PADDED,
        )  # fmt: skip
        part = product(shares.to(told.dtype), told)
        mix = mix * fade[:, None] + part
        total = total * fade + tl.sum(shares, axis=1)
        largest = above
    total = tl.where(row < length, total, 1.0)
    target = mixed + (batch * heads + head) * size
    _store(target, row, length, batches.to(tl.int64) * heads * size, size, mix / total[:, None],
           PADDED)  # fmt: skip
    tl.store(logarithms + pair * length + row, largest + tl.log(total), mask=row < length)


@jit
def _query_backward(
    query, key, value, mixed, upstream, logarithms, along, of_query,
    length, keys, batches, heads, groups, size, window, scale,
    query_row, query_batch, query_head, key_row, key_batch, key_head,
    value_row, value_batch, value_head,
    CAUSAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    pair, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * ROWS
    batch, head = pair // heads, pair % heads
    row = start + tl.arange(0, ROWS)
    stride = batches.to(tl.int64) * heads * size
    asking = _load(
        query + batch * query_batch + head * query_head, row, length, query_row, size, PADDED
    )
    given = _load(upstream + pair * size, row, length, stride, size, PADDED)
    mix = _load(mixed + pair * size, row, length, stride, size, PADDED)
    common = tl.sum(given.to(tl.float32) * mix.to(tl.float32), axis=1)
    tl.store(along + pair * length + row, common, mask=row < length)
    logarithm = tl.load(logarithms + pair * length + row, mask=row < length, other=0.0)
    total = tl.zeros((ROWS, PADDED), dtype=tl.float32)
    low, high = _keys_of(start, length, keys, window, CAUSAL, ROWS, COLUMNS)
    for first in range(low, high, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        held = _load(
            key + batch * key_batch + head // groups * key_head,
            column, keys, key_row, size, PADDED,
        )  # fmt: skip
        told = _load(
            value + batch * value_batch + head // groups * value_head,
            column, keys, value_row, size, PADDED,
        )  # fmt: skip
        scores = _scores(asking, held, row, column, length, keys, window, scale, CAUSAL)
        shares = tl.exp(scores - logarithm[:, None])
        slopes = product(given, tl.trans(told))
        of_scores = (shares * (slopes - common[:, None])).to(held.dtype)
        total += product(of_scores, held)
    _store(of_query + pair * size, row, length, stride, size, total * scale, PADDED)


@jit
def _key_backward(
    query, key, value, upstream, logarithms, along, of_key, of_value,
    length, keys, batches, heads, groups, size, window, scale,
    query_row, query_batch, query_head, key_row, key_batch, key_head,
    value_row, value_batch, value_head,
    CAUSAL: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    pair, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS
    batch, key_heads = pair // (heads // groups), heads // groups
    column = start + tl.arange(0, COLUMNS)
    held = _load(
        key + batch * key_batch + pair % key_heads * key_head, column, keys, key_row, size, PADDED
    )
    told = _load(
        value + batch * value_batch + pair % key_heads * value_head,
        column, keys, value_row, size, PADDED,
    )  # fmt: skip
    to_key = tl.zeros((COLUMNS, PADDED), dtype=tl.float32)
    to_value = tl.zeros((COLUMNS, PADDED), dtype=tl.float32)
    stride = batches.to(tl.int64) * heads * size
    low, high = 0, length
    if CAUSAL:
        low = tl.maximum(start - (keys - length), 0) // ROWS * ROWS
        high = tl.minimum(start + COLUMNS - 1 - (keys - length) + window, length)
    for number in range(groups):
        asker = pair * groups + number  # of the queries' heads, which lie in the keys' order
        for first in range(low, high, ROWS):
            row = first + tl.arange(0, ROWS)
            there = row < length
            asking = _load(
                query + batch * query_batch + asker % heads * query_head,
                row, length, query_row, size, PADDED,
            )  # fmt: skip
            given = _load(upstream + asker * size, row, length, stride, size, PADDED)
            logarithm = tl.load(logarithms + asker * length + row, mask=there, other=0.0)
            common = tl.load(along + asker * length + row, mask=there, other=0.0)
            scores = _scores(asking, held, row, column, length, keys, window, scale, CAUSAL)
            shares = tl.exp(scores - logarithm[:, None])
            to_value += product(tl.trans(shares.to(given.dtype)), given)
            slopes = product(given, tl.trans(told))
            of_scores = (shares * (slopes - common[:, None])).to(asking.dtype)
            to_key += product(tl.trans(of_scores), asking)
    stride = batches.to(tl.int64) * key_heads * size
    _store(of_key + pair * size, column, keys, stride, size, to_key * scale, PADDED)
    _store(of_value + pair * size, column, keys, stride, size, to_value, PADDED)
