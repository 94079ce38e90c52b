"""The architecture of a model."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

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


class RotaryScaling(Section):
    """Rotary frequencies for sequences longer than those the model was first trained on."""

    kind: Literal["linear", "llama3", "yarn"] = Field(
        description="All frequencies (Chen et al., 2023); by wavelength as in Llama 3; by "
        "rotations, with attention sharpened (YaRN, Peng et al., 2023)"
    )
    factor: float = Field(ge=1, description="How much longer")
    original_positions: int = Field(8192, ge=8, description="Longest sequence at first")
    low: float = Field(1.0, gt=0, description="Rotations below which a frequency is scaled whole")
    high: float = Field(4.0, gt=0, description="Rotations above which a frequency is kept")
    sharpness: float | None = Field(
        None, gt=0, description="YaRN's factor on cosines and sines; null is 0.1 ln(factor) + 1"
    )


class ModelConfig(Section):
    """A transformer: of the Llama type unless its fields say otherwise.

    A decoder sees what came before and predicts the next token; an encoder sees the whole window
    and predicts masked tokens. In a recipe ``preset`` may name a published model, or a YAML file,
    whose fields hold where no others are given.
    """

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema["properties"].update(
            preset={"type": "string", "description": "A published model, or a YAML file of one"}
        )
    )

    kind: Literal["decoder", "encoder"] = Field("decoder", description="What attention sees")
    vocabulary: int = Field(4096, ge=1, description="Rows of the embedding")
    positions: int = Field(512, ge=8, description="Longest sequence the model is made for")
    layers: int = Field(6, ge=1, description="Blocks")
    hidden: int = Field(192, ge=8, description="Width of the residual stream")
    heads: int = Field(6, ge=1, description="Query heads")
    kv_heads: int = Field(3, ge=1, description="Key and value heads")
    head_width: int | None = Field(None, ge=2, description="Of one head; null is hidden / heads")
    ffn: int = Field(512, ge=8, description="Width of the feed-forward layer")
    activation: Literal["swiglu", "gelu", "gelu_tanh"] = Field(
        "swiglu", description="Of the feed-forward layer; SwiGLU is gated by a matrix of its own"
    )
    attention_bias: Literal["none", "input", "all"] = Field(
        "none", description="Biases of queries, keys and values, or also of the output"
    )
    ffn_bias: bool = Field(False, description="Biases of the feed-forward layer")
    norm: Literal["rms", "layer"] = Field("rms", description="RMSNorm, or LayerNorm with a bias")
    norm_epsilon: float = Field(1e-5, gt=0, description="Added to the mean square or variance")
    norm_place: Literal["before", "after", "change"] = Field(
        "before",
        description="Norm of what a layer reads, of the residual sum, or of what a layer adds",
    )
    query_key_norm: Literal["none", "head", "all"] = Field(
        "none", description="RMSNorm of queries and keys, over each head or over all together"
    )
    embedding_norm: bool = Field(False, description="Norm of the embedding")
    final_norm: bool = Field(True, description="Norm before the head")
    position_embedding: Literal["rotary", "learned"] = Field("rotary", description="Positions")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary frequencies")
    rope_scaling: RotaryScaling | None = Field(None, description="Null scales nothing")
    window: int | None = Field(
        None, ge=1, description="Newest keys a query of a decoder sees; null is all"
    )
    token_types: int = Field(0, ge=0, description="Rows of a table of segments, as BERT's two")
    head_transform: bool = Field(
        False, description="Dense layer, activation and norm before the head, as in BERT"
    )
    head_bias: bool = Field(False, description="Bias of the logits")
    pooler: bool = Field(
        False, description="Dense layer and tanh on the first position, and two classes for pairs "
        "of segments, as in BERT"
    )  # fmt: skip
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
        return self.head_width or self.hidden // self.heads

    @property
    def query_width(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        """Width of all key heads, and of all value heads."""
        return self.kv_heads * self.head_size

    @property
    def causal(self) -> bool:
        """Whether a token sees only what came before."""
        return self.kind == "decoder"

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate."""
        return self.activation == "swiglu"
