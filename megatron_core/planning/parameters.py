"""How many weights a transformer has, and how they are spread over ranks.

They are counted on the model itself, built without memory, so no family needs a formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

import torch

from megatron_core.config import ModelConfig
from megatron_core.model import GridShard, LanguageModel, parameter_shards


@dataclass(frozen=True)
class Weights:
    """Numbers of weights, by where they live.

    Attributes:
        split: Cut over the tensor shards.
        whole: On every tensor rank.
        sliced: As these, with a gradient of each sequence slice, as those of norms.
        experts: Of all experts: cut over the tensor shards, spread over the expert ranks.
    """

    split: int = 0
    whole: int = 0
    sliced: int = 0
    experts: int = 0

    @classmethod
    def of(cls, shards: Iterable[GridShard]) -> Weights:
        """Of whole tensors."""
        found = {"split": 0, "whole": 0, "sliced": 0, "experts": 0}
        for shard in shards:
            replicated = "sliced" if shard.sliced else "whole"
            where = "experts" if shard.expert else replicated if shard.axis is None else "split"
            found[where] += torch.Size(shard.shape).numel()
        return cls(**found)

    @property
    def total(self) -> int:
        """All of them."""
        return self.split + self.whole + self.sliced + self.experts

    @property
    def dense(self) -> Weights:
        """Those of no expert."""
        return replace(self, experts=0)

    @property
    def sparse(self) -> Weights:
        """Those of experts."""
        return Weights(experts=self.experts)

    def __add__(self, other: Weights) -> Weights:
        return Weights(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Weights:
        return Weights(*(a * times for a in astuple(self)))

    def per_rank(self, *, tensor: int, expert: int) -> int:
        """Those of one rank when ``tensor`` ranks share the shards and ``expert`` the experts."""
        replicated = self.whole + self.sliced
        return self.split // tensor + replicated + self.experts // (tensor * expert)


def layer_weights(model: ModelConfig) -> Weights:
    """One block."""
    return Weights.of(s for s in _shards(model) if s.tensor.startswith("layers."))


def embedding_weights(model: ModelConfig) -> Weights:
    """What makes the residual stream of tokens."""
    return Weights.of(
        shard for shard in _shards(model)
        if shard.tensor.startswith(("embedding", "positions", "token_types"))
    )  # fmt: skip


def head_weights(model: ModelConfig) -> Weights:
    """What makes logits of the residual stream, tied or not, and tells pairs apart."""
    return Weights.of(
        shard for shard in _shards(model)
        if shard.tensor.startswith(("final_norm", "transform", "head", "pooler", "pair_head"))
    )  # fmt: skip


def parameters(model: ModelConfig) -> int:
    """Trained weights of the whole model; tied embeddings count once."""
    total = layer_weights(model) * model.layers + embedding_weights(model) + head_weights(model)
    return total.total - (model.vocabulary * model.hidden if model.tied_embeddings else 0)


def active_parameters(model: ModelConfig) -> int:
    """The weights that one token meets: with experts, only those it is sent to."""
    if model.experts is None:
        return parameters(model)
    unused = model.experts.count - model.experts.chosen
    each = layer_weights(model).experts // model.experts.count
    return parameters(model) - model.layers * each * unused


def _shards(model: ModelConfig) -> list[GridShard]:
    """The tensors of a model of one block, which has no memory."""
    one = model.model_copy(update={"layers": 1})
    with torch.device("meta"):
        return [shard.place for shard in parameter_shards(LanguageModel(one))]
