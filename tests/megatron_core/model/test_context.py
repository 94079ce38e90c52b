"""Keys and values across context chunks against slices of the whole sequence in float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_core.collectives import ContextSpan, Span
from megatron_core.model.context import visible
from tests.spans import SHARDS, Parts, normal, over_ranks

S, B, SIZE = 3, 2, 5


def upstream(chunk: int, length: int, dtype: torch.dtype) -> Tensor:
    """The gradient of what query chunk ``chunk`` sees."""
    return normal(f"d{chunk}", length, B, SIZE, dtype=dtype)


def case(span: Span, causal: bool, dtype: torch.dtype) -> Parts:
    assert isinstance(span, ContextSpan)
    whole = normal("keys", SHARDS * S, B, SIZE, dtype=dtype).chunk(SHARDS)
    chunks = [whole[chunk].clone().requires_grad_() for chunk in span.chunks]
    seen = visible(chunks, span, causal=causal)
    assert {x.dtype for x in seen} == {dtype}
    torch.autograd.backward(
        seen, [upstream(chunk, len(x), dtype) for chunk, x in zip(span.chunks, seen, strict=True)]
    )
    return {
        "seen": [x.detach() for x in seen],
        "gradient": [x.grad for x in chunks if x.grad is not None],
    }


CASES = {
    "causal": partial(case, causal=True, dtype=torch.float32),
    "full": partial(case, causal=False, dtype=torch.float32),
    "causal bf16": partial(case, causal=True, dtype=torch.bfloat16),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """All chunks on one rank, in the order of their leaves."""
    return over_ranks(CASES, 1, tmp_path_factory.mktemp("alone"), ContextSpan)


@pytest.mark.parametrize("name", CASES)
def test_each_chunk_sees_what_it_may_and_gives_back_what_it_gave(
    name: str, alone: dict[str, Parts]
) -> None:
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    keys = normal("keys", SHARDS * S, B, SIZE, dtype=dtype).double().requires_grad_()
    order = ContextSpan(SHARDS).chunks
    assert sorted(order) == list(range(SHARDS))
    for chunk, seen in zip(order, alone[name]["seen"], strict=True):
        length = (chunk + 1) * S if "causal" in name else SHARDS * S
        assert torch.equal(seen.double(), keys.detach()[:length])
        keys[:length].backward(upstream(chunk, length, dtype).double())
    assert keys.grad is not None
    exact = keys.grad.chunk(SHARDS)
    for chunk, gradient in zip(order, alone[name]["gradient"], strict=True):
        tolerance = 1e-2 if "bf16" in name else 1e-6
        torch.testing.assert_close(
            gradient.double(), exact[chunk], rtol=tolerance, atol=tolerance
        )  # fmt: skip


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_chunks_get_the_same_bits(
    ranks: int, alone: dict[str, Parts], tmp_path: Path
) -> None:
    found = over_ranks(CASES, ranks, tmp_path, ContextSpan)
    for name, results in alone.items():
        for part, wanted in results.items():
            assert all(map(torch.equal, found[name][part], wanted)), (name, part)


def test_one_chunk_is_left_as_it_is() -> None:
    keys = normal("keys", S, B, SIZE)
    (seen,) = visible([keys], ContextSpan(), causal=True)
    assert seen is keys
