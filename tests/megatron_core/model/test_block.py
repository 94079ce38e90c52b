"""A block on a grid of one against the same block written plainly: bits and operations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention import attention
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary, rotary_frequencies, rotary_table
from kernels.swiglu import swiglu
from megatron_core.model import Place, Share, parameter_shards
from megatron_core.model.block import Block
from megatron_core.model.rotary import rotary_angles
from tests.operations import Operations
from tests.recipes import small_model
from tests.spans import Leaf, normal

S, B = 16, 2
# Layers differ in where the copies of grouped heads are made and what is contiguous.
MODELS = {
    "grouped": small_model(),
    "ungrouped": small_model(kv_heads=4),
    "encoder": small_model(kind="encoder"),
}


def plain_block(x: Tensor, weights: dict[str, Tensor], causal: bool, size: int) -> Tensor:
    """With torch's own linear layers."""
    table = rotary_table(S, rotary_frequencies(size, 10_000.0))
    y = rms_norm(x, weights["attention_norm.weight"], 1e-5)
    query, key, value = (
        F.linear(y, weights[f"attention.{name}.weight"]).unflatten(-1, (-1, size))
        for name in ("query", "key", "value")
    )
    turned = apply_rotary(query, table), apply_rotary(key, table)
    mixed = attention(*turned, value, causal=causal).flatten(2)
    x = x + F.linear(mixed, weights["attention.output.weight"])
    y = rms_norm(x, weights["ffn_norm.weight"], 1e-5)
    gate, up = (F.linear(y, weights[f"ffn.{name}.weight"]) for name in ("gate", "up"))
    return x + F.linear(swiglu(gate, up), weights["ffn.down.weight"])


def watched(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Operations]:
    """Output, gradient of the input, and the operations of a pass forward and backward."""
    x = normal("x", S, B, 32).requires_grad_()
    with Operations() as operations:
        y = forward(x)
        y.backward(normal("dy", S, B, 32))
    assert x.grad is not None
    return y.detach(), x.grad, operations


@pytest.mark.parametrize("model", MODELS)
def test_a_grid_of_one_costs_nothing(model: str) -> None:
    """No operation that the plain block does without, save that gradients are added in products."""
    config = MODELS[model]
    block, leaf = Block(config, Share(), 0), Leaf()
    weights = {}
    for shard in parameter_shards(block):
        shard.parameter.data = normal(shard.key, *shard.parameter.shape) * 0.3
        weights[shard.place.tensor] = shard.parameter.detach().clone().requires_grad_()
        leaf.sums[shard.parameter, 0] = torch.zeros_like(shard.parameter)
        weights[shard.place.tensor].grad = torch.zeros_like(shard.parameter)
    table = rotary_angles(config)[:, :S]
    ours = watched(lambda x: block([x], [Place(0, leaf)], [table])[0])
    causal = config.kind == "decoder"
    theirs = watched(lambda x: plain_block(x, weights, causal, config.head_size))
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
    for shard in parameter_shards(block):
        gradient = weights[shard.place.tensor].grad
        torch.testing.assert_close(leaf.sums[shard.parameter, 0], gradient, rtol=1e-5, atol=1e-5)
    mine, plain = ours[2].computed(), theirs[2].computed()
    assert set(mine - plain) == {"addmm_"}
    assert mine["mm"] + mine["addmm_"] == plain["mm"] == 21
    assert mine.total() < plain.total()
