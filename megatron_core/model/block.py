"""One transformer block: attention and feed-forward, each behind a norm and a residual."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from kernels.attention import causal_attention
from kernels.rms_norm import rms_norm
from kernels.rotary import apply_rotary
from kernels.swiglu import swiglu
from megatron_core.config import ModelConfig


class Norm(nn.Module):
    """RMSNorm with a learned scale."""

    def __init__(self, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped key and value heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, size = config.heads, config.kv_heads, config.head_size
        self.query = nn.Linear(config.hidden, config.heads * size, bias=False)
        self.key = nn.Linear(config.hidden, config.kv_heads * size, bias=False)
        self.value = nn.Linear(config.hidden, config.kv_heads * size, bias=False)
        self.output = nn.Linear(config.heads * size, config.hidden, bias=False)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, self.heads, -1).transpose(1, 2)
        key = self.key(x).view(batch, length, self.kv_heads, -1).transpose(1, 2)
        value = self.value(x).view(batch, length, self.kv_heads, -1).transpose(1, 2)
        mixed = causal_attention(apply_rotary(query, table), apply_rotary(key, table), value)
        return cast(Tensor, self.output(mixed.transpose(1, 2).reshape(batch, length, -1)))


class FeedForward(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.ffn, bias=False)
        self.up = nn.Linear(config.hidden, config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(swiglu(self.gate(x), self.up(x))))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + ffn(norm(x))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.hidden, config.norm_epsilon)
        self.attention = Attention(config)
        self.ffn_norm = Norm(config.hidden, config.norm_epsilon)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """``x [batch, length, hidden]`` through the block; ``table`` are the rotary angles."""
        x = x + self.attention(self.attention_norm(x), table)
        return x + cast(Tensor, self.ffn(self.ffn_norm(x)))
