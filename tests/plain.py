"""The transformer and its training as anyone would write them: one process, float64, autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_core.collectives import Span
from megatron_core.config import ModelConfig, PretrainConfig
from megatron_core.model import LanguageModel, Share, initialize, parameter_shards
from megatron_core.trainer.objective import Objective

Weights = Mapping[str, Tensor]
Record = dict[str, float]


def initial_weights(config: PretrainConfig) -> dict[str, Tensor]:
    """Whole tensors of the recipe's initial weights in float64, those of tied ones once."""
    model = LanguageModel(config.model, Share(tensor=Span(config.grid.tensor)))
    initialize(model, config.model, config.seed)
    shards: dict[str, list[Tensor]] = {}
    axes: dict[str, int] = {}
    for shard in parameter_shards(model):
        if shard.place.tensor not in model.tied:
            shards.setdefault(shard.place.tensor, []).append(shard.parameter.detach().double())
            axes[shard.place.tensor] = shard.place.axis or 0
    return {name: torch.cat(parts, dim=axes[name]) for name, parts in shards.items()}


def logits(weights: Weights, config: ModelConfig, tokens: Tensor) -> Tensor:
    """``[b, t, vocabulary]`` of int64 ``tokens [b, t]``."""
    x = weights["embedding.weight"][tokens]
    for layer in (f"layers.{i}" for i in range(config.layers)):
        x = x + attention(weights, config, layer, norm(weights, config, f"{layer}.attention", x))
        y = norm(weights, config, f"{layer}.ffn", x)
        gate, up, down = (weights[f"{layer}.ffn.{name}.weight"] for name in ("gate", "up", "down"))
        x = x + (y @ gate.T / (1 + (-y @ gate.T).exp()) * (y @ up.T)) @ down.T
    head = weights["embedding.weight" if config.tied_embeddings else "head.weight"]
    return norm(weights, config, "final", x) @ head.T


def norm(weights: Weights, config: ModelConfig, name: str, x: Tensor) -> Tensor:
    mean = x.square().mean(-1, keepdim=True)
    return x / (mean + config.norm_epsilon).sqrt() * weights[f"{name}_norm.weight"]


def attention(weights: Weights, config: ModelConfig, layer: str, x: Tensor) -> Tensor:
    query, key, value = (
        (x @ weights[f"{layer}.attention.{name}.weight"].T)
        .unflatten(-1, (-1, config.head_size))
        .transpose(1, 2)
        for name in ("query", "key", "value")
    )
    groups = config.heads // config.kv_heads
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scores = rotate(query, config) @ rotate(key, config).mT / math.sqrt(config.head_size)
    if config.kind == "decoder":
        scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -math.inf)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    return mixed @ weights[f"{layer}.attention.output.weight"].T


def rotate(x: Tensor, config: ModelConfig) -> Tensor:
    """Numbers i and i + size / 2 are one complex number, turned by the position."""
    half = config.head_size // 2
    speeds = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float64), speeds)
    z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)


def mean_loss(
    weights: Weights, config: PretrainConfig, objective: Objective, step: int
) -> Tensor:  # fmt: skip
    """Of the whole batch of ``step`` at once, over all its predictions."""
    size = config.batch.sequences
    batch = objective.read(range((step - 1) * size, step * size))
    scores = logits(weights, config.model, batch.tokens)
    return F.cross_entropy(scores.flatten(0, 1), batch.targets.flatten())


def train(
    config: PretrainConfig, objective: Objective, start: Mapping[str, Tensor] | None = None
) -> tuple[list[Record], Weights]:
    """Every step's record, and the last weights; torch's optimizer. ``start`` is drawn if None."""
    first = initial_weights(config) if start is None else start
    weights = {n: w.detach().double().requires_grad_() for n, w in first.items()}
    adamw, warmup = config.optimizer, config.schedule.warmup_steps
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights.values() if w.ndim == 2]},
            {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0, betas=(adamw.beta1, adamw.beta2), eps=adamw.epsilon,
        weight_decay=adamw.weight_decay,
    )  # fmt: skip
    records = []
    for step in range(1, config.steps + 1):
        loss = mean_loss(weights, config, objective, step)
        optimizer.zero_grad()
        loss.backward()
        grads = [w.grad for w in weights.values() if w.grad is not None]
        total = torch.cat([g.flatten() for g in grads]).norm()
        for g in grads:
            g.mul_(min(1.0, adamw.clip / float(total)))
        turn = math.pi * (step - warmup) / (config.steps - warmup)
        rate = adamw.learning_rate * (
            step / warmup if step <= warmup else 0.55 + 0.45 * math.cos(turn)
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        records.append(
            {"loss": loss.item(), "gradient_norm": total.item(), "learning_rate": rate}
        )  # fmt: skip
    return records, {name: w.detach() for name, w in weights.items()}
