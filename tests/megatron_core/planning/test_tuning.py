"""What is planned of fine-tuning is what the engine trains and computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_core.config import ContinuedConfig, InstructionsTask, ModelConfig
from megatron_core.model import LanguageModel, Share, add_adapter
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.job import Job
from megatron_core.planning.tuning import TuningPlan
from tests.models import small_config

LORA = {"kind": "lora", "rank": 4, "matrices": ["query", "output", "up", "down"]}
SOFT = {"kind": "soft_prompt", "tokens": 4}
LENGTH, BATCH = 16, 2


class Products(TorchDispatchMode):
    """Counts the arithmetic of matrix products, also of those that add to what is there."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:]
            self.flops += 2 * left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapter", [None, LORA, SOFT], ids=["whole", "lora", "soft_prompt"])
def test_weights_and_products_are_those_of_the_engine(
    adapter: dict[str, Any] | None, tied: bool
) -> None:
    model = small_config(tied_embeddings=tied)
    config = InstructionsTask.model_validate(
        {
            "examples": {"train": "none.jsonl"}, "adapter": adapter, "sequence_length": LENGTH,
            "batch": {"sequences": BATCH, "microbatch": BATCH},
            "kernels": {"default": "reference"},
        }
    )  # fmt: skip
    planned = TuningPlan.of("notes", Job.of(config, model, Layout()))

    def build(share: Share) -> LanguageModel:
        made = LanguageModel(model, share)
        if config.adapter is not None:
            add_adapter(made, config.adapter)
        for parameter in made.parameters():
            parameter.data.normal_(std=0.02)
        return made

    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = Engine(build, config, mesh, model=model)
        with sdpa_kernel(SDPBackend.MATH), Products() as counted:
            engine.gradient(lambda samples: Batch(tokens, tokens, tokens.numel()), 1)
    names = {place.tensor: place.shape for place in engine.catalogue.values()}
    assert planned.trained == sum(torch.Size(shape).numel() for shape in names.values())
    whole = sum(p.numel() for p in LanguageModel(model).parameters())
    whole -= model.vocabulary * model.hidden if tied else 0
    assert planned.frozen == (0 if adapter is None else whole)
    assert counted.flops == BATCH * LENGTH * planned.step_flops


def test_a_layout_that_does_not_suit_is_said() -> None:
    config = ContinuedConfig(steps=1)
    planned = TuningPlan.of("continued", Job.of(config, ModelConfig(), Layout.parse("data=2")))
    assert planned.memory is None
    assert planned.problems == ["data=2 must divide grid.data = 1"]
