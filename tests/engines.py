"""An engine with a recipe's initial weights, and the gradient it finds as whole tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_core.config import PretrainConfig
from megatron_core.model import LanguageModel, Share, initialize
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.mesh import Mesh


def engine_of(config: PretrainConfig, mesh: Mesh) -> Engine:
    """The share of the recipe's model that this rank computes."""

    def build(share: Share) -> LanguageModel:
        model = LanguageModel(config.model, share)
        initialize(model, config.model, config.seed)
        return model

    return Engine(build, config, mesh, model=config.model)


def whole_gradient(engine: Engine) -> dict[str, Tensor]:
    """Of each tensor, on one rank."""
    views = {
        key: view
        for bucket in engine.buckets
        if not bucket.tied
        for key, view in bucket.layout.views(bucket.gradient).items()
    }
    found: dict[str, list[Tensor]] = {}
    for shard in engine.catalogue.values():
        found.setdefault(shard.tensor, []).append(views[shard.key])
    return {
        name: torch.cat(parts, dim=engine.catalogue[f"{name}/0"].axis or 0)
        for name, parts in found.items()
    }
