"""How many weights a transformer has, and how they are spread over ranks.

They are counted on the model itself, built without memory, so no family needs a formula.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

import torch

from megatron_core.config import AdapterConfig, ModelConfig
from megatron_core.model import (
    GridShard,
    LanguageModel,
    add_adapter,
    changed_matrices,
    parameter_shards,
)


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


def layer_weights(
    model: ModelConfig, adapter: AdapterConfig | None = None, *, frozen: bool = False
) -> Weights:
    """One block: what is trained of it, or with ``frozen`` what is not."""
    return _weights(model, ("layers.",), adapter, frozen=frozen)


def embedding_weights(
    model: ModelConfig, adapter: AdapterConfig | None = None, *, frozen: bool = False
) -> Weights:
    """What makes the residual stream of tokens."""
    names = ("embedding", "positions", "token_types", "soft_prompt")
    return _weights(model, names, adapter, frozen=frozen)


def head_weights(
    model: ModelConfig, adapter: AdapterConfig | None = None, *, frozen: bool = False,
    logits: bool = True,
) -> Weights:  # fmt: skip
    """What makes logits of the residual stream, tied or not, and tells pairs apart.

    Without ``logits`` the final norm alone.
    """
    names = ("final_norm", *(("transform", "head", "pooler", "pair_head") if logits else ()))
    return _weights(model, names, adapter, frozen=frozen)


def changed_shapes(model: ModelConfig, adapter: AdapterConfig | None) -> list[tuple[int, ...]]:
    """Of the matrices of one block that low-rank changes are merged into."""
    one = _one_block(model, adapter)
    changed = changed_matrices(one)
    return [shard.place.shape for shard in parameter_shards(one) if shard.parameter in changed]


def changed_weights(model: ModelConfig, adapter: AdapterConfig | None) -> Weights:
    """Those matrices, which are held with and without the change."""
    shapes = changed_shapes(model, adapter)
    return Weights(split=sum(rows * columns for rows, columns in shapes))


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


def _weights(
    model: ModelConfig, names: tuple[str, ...], adapter: AdapterConfig | None, *, frozen: bool
) -> Weights:
    """Of the tensors whose names begin with one of ``names``."""
    return Weights.of(
        shard.place for shard in parameter_shards(_one_block(model, adapter))
        if shard.place.tensor.startswith(names) and shard.parameter.requires_grad is not frozen
    )  # fmt: skip


def _one_block(model: ModelConfig, adapter: AdapterConfig | None) -> LanguageModel:
    """The model with one block of it, without memory."""
    with torch.device("meta"):
        built = LanguageModel(model.model_copy(update={"layers": 1}))
        if adapter is not None:
            add_adapter(built, adapter)
    return built
