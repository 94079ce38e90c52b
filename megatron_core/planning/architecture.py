"""The shape of a transformer, ours or a published one."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from megatron_core.config import ModelConfig, Section


class Experts(Section):
    """A mixture of experts in place of each feed-forward layer."""

    count: int = Field(ge=2, description="Experts of each layer")
    chosen: int = Field(ge=1, description="Experts that each token goes to")
    ffn: int = Field(ge=1, description="Width of one expert")


class Architecture(Section):
    """What decides the size, the memory and the arithmetic of a transformer."""

    source: str = Field("", description="Where the shape is published")
    layers: int = Field(ge=1, description="Blocks")
    hidden: int = Field(ge=1, description="Width of the residual stream")
    heads: int = Field(ge=1, description="Query heads")
    kv_heads: int = Field(ge=1, description="Key and value heads")
    head_size: int = Field(ge=1, description="Width of one head; by default hidden / heads")
    ffn: int = Field(ge=1, description="Width of the feed-forward layer")
    gated: bool = Field(True, description="Two matrices into the feed-forward layer instead of one")
    vocabulary: int = Field(ge=1, description="Rows of the embedding, with padding")
    positions: int = Field(ge=1, description="Longest sequence")
    learned_positions: bool = Field(False, description="A table of positions; else rotary")
    biases: bool = Field(False, description="Linear layers have biases")
    norm: Literal["rms", "layer"] = Field("rms", description="Layer norms have a bias, RMS none")
    tied_embeddings: bool = Field(True, description="Share input embedding and output head")
    causal: bool = Field(True, description="A decoder; an encoder sees the whole window")
    experts: Experts | None = Field(None, description="Mixture of experts")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Heads share the width and have keys of their own unless the preset says otherwise."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        heads, hidden = data.get("heads"), data.get("hidden")
        if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            data.setdefault("head_size", hidden // heads)
            data.setdefault("kv_heads", heads)
        return data

    @classmethod
    def of(cls, model: ModelConfig) -> Architecture:
        """The shape of the models that a recipe trains."""
        experts = model.experts
        return cls(
            layers=model.layers,
            hidden=model.hidden,
            heads=model.heads,
            kv_heads=model.kv_heads,
            head_size=model.head_size,
            ffn=model.ffn,
            gated=model.gated,
            learned_positions=model.position_embedding == "learned",
            biases=model.ffn_bias,
            norm=model.norm,
            vocabulary=model.vocabulary,
            positions=model.positions,
            tied_embeddings=model.tied_embeddings,
            causal=model.kind == "decoder",
            experts=None
            if experts is None
            else Experts(count=experts.count, chosen=experts.chosen, ffn=experts.ffn),
        )

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def key(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_size
