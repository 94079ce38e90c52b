"""The ``pretrain`` section."""

from __future__ import annotations

from pydantic import Field

from megatron_core.config.section import Section
from megatron_core.config.training import TrainingConfig


class DecoderConfig(Section):
    """A decoder of the Llama type: RMSNorm, rotary positions, grouped KV heads, SwiGLU."""

    vocabulary: int = Field(4096, ge=2, description="Rows of the embedding")
    positions: int = Field(512, ge=8, description="Longest sequence the model is made for")
    layers: int = Field(6, ge=1, description="Blocks")
    hidden: int = Field(192, ge=8, description="Width of the residual stream")
    heads: int = Field(6, ge=1, description="Query heads")
    kv_heads: int = Field(3, ge=1, description="Key and value heads")
    ffn: int = Field(512, ge=8, description="Width of the feed-forward layer")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary frequencies")
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to the mean square in RMSNorm")
    initial_std: float = Field(0.02, gt=0, description="Standard deviation of initial weights")
    tied_embeddings: bool = Field(True, description="Share input embedding and output head")

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


Sources = dict[str, float]


class PretrainConfig(TrainingConfig):
    """Train a decoder from scratch on the tokenized sources."""

    steps: int = Field(300, ge=1, description="Optimizer steps")
    model: DecoderConfig = Field(default_factory=DecoderConfig, description="Architecture")
    sources: Sources = Field(
        default_factory=dict,
        description="Passes over each source per epoch of the mixture; empty takes all once",
    )
