"""The architecture of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section


class ExpertsConfig(Section):
    """A mixture of experts in place of each feed-forward layer; no token is dropped.

    Shazeer et al. (2017); the balance loss of Fedus et al. (2021), the z-loss of Zoph et al.
    (2022).
    """

    count: int = Field(8, ge=2, description="Experts of each layer")
    chosen: int = Field(2, ge=1, description="Experts that each token goes to")
    ffn: int = Field(256, ge=8, description="Width of one expert")
    normalize: bool = Field(True, description="Weights of the chosen experts add up to one")
    balance_loss: float = Field(0.01, ge=0, description="Weight of the load-balancing loss")
    z_loss: float = Field(0.001, ge=0, description="Weight of the router's z-loss")


class ModelConfig(Section):
    """A transformer of the Llama type: RMSNorm, rotary positions, grouped KV heads, SwiGLU.

    A decoder sees what came before and predicts the next token; an encoder sees the whole window
    and predicts masked tokens.
    """

    kind: Literal["decoder", "encoder"] = Field("decoder", description="What attention sees")
    vocabulary: int = Field(4096, ge=2, description="Rows of the embedding")
    positions: int = Field(512, ge=8, description="Longest sequence the model is made for")
    layers: int = Field(6, ge=1, description="Blocks")
    hidden: int = Field(192, ge=8, description="Width of the residual stream")
    heads: int = Field(6, ge=1, description="Query heads")
    kv_heads: int = Field(3, ge=1, description="Key and value heads")
    ffn: int = Field(512, ge=8, description="Width of the feed-forward layer")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary frequencies")
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to the mean square in RMSNorm")
    experts: ExpertsConfig | None = Field(
        None, description="Mixture of experts; null for one feed-forward layer"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of activations dropped before each residual sum"
    )
    initial_std: float = Field(0.02, gt=0, description="Standard deviation of initial weights")
    tied_embeddings: bool = Field(True, description="Share input embedding and output head")

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads
