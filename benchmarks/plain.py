"""A Llama-type decoder as anyone would write it in PyTorch, and the loop that trains such models.

Parameters have the names of ours, so that initial weights are handed over by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.rotary import rotary_frequencies, rotary_table
from megatron_core.config import ModelConfig, PretrainConfig
from megatron_core.parallel.batch import Batch

Reader = Callable[[range], Batch]


class Attention(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.query = nn.Linear(model.hidden, model.query_width, bias=False)
        self.key = nn.Linear(model.hidden, model.key_width, bias=False)
        self.value = nn.Linear(model.hidden, model.key_width, bias=False)
        self.output = nn.Linear(model.query_width, model.hidden, bias=False)
        self.size = model.head_size

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, table), rotate(key, table), value, is_causal=True,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(model.hidden, model.ffn, bias=False)
        self.up = nn.Linear(model.hidden, model.ffn, bias=False)
        self.down = nn.Linear(model.ffn, model.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PlainBlock(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(model.hidden, model.norm_epsilon)
        self.attention = Attention(model)
        self.ffn_norm = nn.RMSNorm(model.hidden, model.norm_epsilon)
        self.ffn = FeedForward(model)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), table)
        return x + self.ffn(self.ffn_norm(x))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cosine, sine = table.to(x.dtype)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class PlainModel(nn.Module):
    """``tokens [b, s]`` to logits ``[b, s, vocabulary]``."""

    table: Tensor

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(model.vocabulary, model.hidden)
        self.layers = nn.ModuleList(PlainBlock(model) for _ in range(model.layers))
        self.final_norm = nn.RMSNorm(model.hidden, model.norm_epsilon)
        self.head = nn.Linear(model.hidden, model.vocabulary, bias=False)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        frequencies = rotary_frequencies(model.head_size, model.rope_theta)
        self.register_buffer("table", rotary_table(model.positions, frequencies), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x, table = self.embedding(tokens), self.table[:, : tokens.shape[1]]
        for block in self.layers:
            x = block(x, table)
        return self.head(self.final_norm(x))


def give_weights(model: PlainModel, weights: Mapping[str, Tensor]) -> None:
    """Copy ``weights`` by name; a tied head is the embedding."""
    model.load_state_dict({"head.weight": weights["embedding.weight"], **weights})


def plain_step(
    model: nn.Module, config: PretrainConfig, read: Reader, *, compiled: bool = False
) -> Callable[[int], Tensor]:
    """A step of AdamW on ``model``, which makes logits of tokens; it returns the mean loss.

    Weights are fp32, and halves come of autocast, as in most loops. If ``compiled``, model and
    loss are one graph.
    """
    batch, adamw, device = config.batch, config.optimizer, torch.device(config.device)
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in model.parameters() if w.ndim >= 2]},
            {"params": [w for w in model.parameters() if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=adamw.learning_rate, betas=(adamw.beta1, adamw.beta2), eps=adamw.epsilon,
        weight_decay=adamw.weight_decay, fused=True,
    )  # fmt: skip

    def summed(tokens: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="sum")

    summed_loss = torch.compile(summed) if compiled else summed
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        first, total = (number - 1) * batch.sequences, torch.zeros((), device=device)
        for start in range(first, first + batch.sequences, batch.microbatch):
            part = read(range(start, start + batch.microbatch))
            tokens, targets = (x.to(device, non_blocking=True) for x in (part.tokens, part.targets))
            with torch.autocast(device.type, halves) if halves else nullcontext():
                loss = summed_loss(tokens, targets) / (batch.sequences * config.sequence_length)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.parameters(), adamw.clip)
        optimizer.step()
        return total

    return step
