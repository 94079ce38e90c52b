"""Embedding and cross-entropy over vocabulary shards against the whole table in float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.collectives import Span
from megatron_core.model.linear import Split
from megatron_core.model.vocabulary import cross_entropy, embed
from tests.spans import SHARDS, Leaf, Parts, normal, over_ranks

S, B, HIDDEN, VOCABULARY = 8, 3, 12, 20
ROWS = VOCABULARY // SHARDS
# Every row of the table is met, some often, the last one of each shard too.
TOKENS = (torch.arange(S * B) * 7 % VOCABULARY).view(S, B)
TARGETS = (
    (torch.arange(S * B) * 11 % VOCABULARY).view(S, B).index_fill(0, torch.tensor([2]), IGNORED)
)


def logits() -> Tensor:
    """Some so large that their exponential is not finite."""
    return normal("logits", S, B, VOCABULARY) * torch.tensor([1.0, 100.0, 1000.0])[:, None]


def every_case(span: Span, dtype: torch.dtype, with_leaf: bool) -> Parts:
    leaf = Leaf() if with_leaf else None
    table = Split(VOCABULARY, HIDDEN, 0, span)
    for shard, weight in table.weight.items():
        weight.data = normal("table", VOCABULARY, HIDDEN).chunk(SHARDS)[int(shard)].to(dtype)
    x = embed(TOKENS, table, span, leaf)
    upstream = normal("dx", S, B, HIDDEN, dtype=dtype).chunk(SHARDS)
    x.backward(torch.cat([upstream[shard] for shard in span.local]))
    if leaf is None:
        found = [weight.grad for weight in table.shards if weight.grad is not None]
    else:
        found = [leaf.sums[weight, 0] for weight in table.shards]
    pieces = [logits().chunk(SHARDS, -1)[shard].to(dtype).requires_grad_() for shard in span.local]
    loss = cross_entropy(pieces, TARGETS, span)
    loss.backward(torch.tensor(0.5))
    return {
        "x": list(x.detach().chunk(len(span.local))), "table": found,
        "loss": [loss.detach()] * len(span.local),  # the same on every rank
        "logits": [piece.grad for piece in pieces if piece.grad is not None],
    }  # fmt: skip


CASES = {
    "autograd": partial(every_case, dtype=torch.float32, with_leaf=False),
    "leaf": partial(every_case, dtype=torch.float32, with_leaf=True),
    "bf16": partial(every_case, dtype=torch.bfloat16, with_leaf=True),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parts]:
    """All shards on one rank."""
    return over_ranks(CASES, 1, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_the_whole_table(
    case: str, alone: dict[str, Parts]
) -> None:
    table = normal("table", VOCABULARY, HIDDEN).double().requires_grad_()
    x = table[TOKENS]
    x.backward(normal("dx", S, B, HIDDEN).double())
    dtype = torch.bfloat16 if case == "bf16" else torch.float32
    scores = logits().to(dtype).double().requires_grad_()
    loss = F.cross_entropy(
        scores.flatten(0, 1), TARGETS.flatten(), reduction="sum", ignore_index=IGNORED
    )
    loss.backward(torch.tensor(0.5).double())
    assert table.grad is not None
    assert scores.grad is not None
    tolerance = 1e-2 if case == "bf16" else 1e-6
    for name, wanted in {
        "x": x.detach(), "table": table.grad, "loss": torch.stack([loss.detach()] * SHARDS),
        "logits": torch.cat(scores.grad.chunk(SHARDS, -1)),
    }.items():  # fmt: skip
        parts = alone[case][name]
        ours = (torch.stack(parts) if name == "loss" else torch.cat(parts)).double()
        torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=3 * tolerance, msg=name)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_the_shards_get_the_same_bits(
    ranks: int, alone: dict[str, Parts], tmp_path: Path
) -> None:
    found = over_ranks(CASES, ranks, tmp_path)
    for case, results in alone.items():
        for name, wanted in results.items():
            assert len(found[case][name]) == SHARDS
            assert all(map(torch.equal, found[case][name], wanted)), (case, name)


def test_a_vocabulary_of_one_shard_is_the_plain_table_and_loss() -> None:
    span = Span()
    table = Split(VOCABULARY, HIDDEN, 0, span)
    (weight,) = table.shards
    weight.data = normal("table", VOCABULARY, HIDDEN)
    assert torch.equal(embed(TOKENS, table, span, None), weight[TOKENS])
    ours = cross_entropy([logits()], TARGETS, span)
    flat = logits().flatten(0, 1), TARGETS.flatten()
    assert torch.equal(ours, F.cross_entropy(*flat, reduction="sum", ignore_index=IGNORED))
