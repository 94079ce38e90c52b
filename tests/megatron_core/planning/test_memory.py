"""Planned memory is what autograd keeps and what the allocator gives out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from megatron_core.config import (
    ClassificationTask,
    Grid,
    InstructionsTask,
    ModelConfig,
    PretrainConfig,
    TaskSettings,
)
from megatron_core.model import Share
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.planning.flops import Recompute
from megatron_core.planning.hardware import Precision
from megatron_core.planning.job import Job
from megatron_core.planning.memory import memory, saved
from tests.memory import saved_bytes, step_bytes, whole
from tests.ranks import run_ranks

MODEL = {
    "vocabulary": 512, "positions": 64, "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2,
    "ffn": 96,
}  # fmt: skip
UNGROUPED = {**MODEL, "kv_heads": 4}
EXPERTS = {**UNGROUPED, "experts": {"count": 4, "chosen": 2, "ffn": 48}}


@pytest.mark.parametrize(
    ("model", "grid", "precision", "recompute"),
    [
        (MODEL, Grid(), "fp32", "none"),
        (MODEL, Grid(), "bf16", "none"),
        (MODEL, Grid(), "bf16", "selective"),
        (MODEL, Grid(tensor=2), "bf16", "none"),
        (MODEL, Grid(context=4), "fp32", "none"),
        (MODEL, Grid(tensor=2, context=2), "bf16", "selective"),
        (UNGROUPED, Grid(tensor=2, context=2), "bf16", "none"),
        ({**MODEL, "kind": "encoder"}, Grid(context=2), "bf16", "none"),
        (EXPERTS, Grid(), "bf16", "none"),
        (EXPERTS, Grid(tensor=2, context=2), "fp32", "none"),
    ],
)
def test_saved_activations(
    model: dict[str, Any], grid: Grid, precision: Precision, recompute: Recompute
) -> None:
    config = ModelConfig.model_validate(model)
    measured = saved_bytes(config, whole(grid, recompute), length=64, batch=2, precision=precision)
    job = Job(config, Layout(), 64, 2, 2, grid, precision, recompute)
    assert saved(job, 0) == pytest.approx(measured, abs=150)  # of a few hundred thousand


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "grid": {"tensor": 2, "context": 2}},
        {"recompute": "full"},
        {"reset_at_documents": True},
        {"grid": {"data": 4}, "batch": {"sequences": 16, "microbatch": 2}},
        {"model": {**MODEL, "vocabulary": 4096, "positions": 128}},
    ],
    ids=["plain", "bf16", "full", "documents", "data", "vocabulary"],
)
def test_a_step_takes_what_is_planned(changes: dict[str, Any]) -> None:
    base = {
        "model": {**MODEL, "positions": 128},
        "sequence_length": 128,
        "batch": {"sequences": 8, "microbatch": 4},
        "kernels": {"default": "reference"},
    }
    config = PretrainConfig.model_validate({**base, **changes})
    state, step = step_bytes(config, Layout())
    (planned,) = memory(Job.of(config, config.model, Layout()))
    assert planned.weights + planned.optimizer == pytest.approx(state, abs=200)
    assert planned.step == pytest.approx(step, rel=0.03)


LORA = {"kind": "lora", "rank": 4}
SOFT = {"kind": "soft_prompt", "tokens": 8, "encoder": 32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", [None, LORA, SOFT], ids=["whole", "lora", "soft_prompt"])
@pytest.mark.parametrize("kind", [InstructionsTask, ClassificationTask])
def test_a_task_takes_what_is_planned(
    kind: type[TaskSettings], adapter: dict[str, Any] | None, precision: str
) -> None:
    examples = {"train": "none.jsonl"} | ({"kind": "texts"} if kind is ClassificationTask else {})
    config = kind.model_validate(
        {
            "examples": examples, "adapter": adapter, "precision": precision,
            "sequence_length": 128, "batch": {"sequences": 8, "microbatch": 4},
            "kernels": {"default": "reference"},
        }
    )  # fmt: skip
    model = ModelConfig.model_validate({**MODEL, "positions": 128})
    state, step = step_bytes(config, Layout(), model)
    (planned,) = memory(Job.of(config, model, Layout()))
    # Nothing is known of a class head, here of two classes, 16 bytes a weight at most.
    head = 16 * 2 * (model.hidden + 1) if kind is ClassificationTask else 0
    assert 0 <= state - (planned.weights + planned.optimizer) <= head
    assert planned.step == pytest.approx(step, rel=0.06)


@pytest.mark.parametrize("adapter", [LORA, SOFT], ids=["lora", "soft_prompt"])
def test_an_adapter_takes_what_is_planned_with_tensor_shards(adapter: dict[str, Any]) -> None:
    matrices = {"matrices": ["query", "output", "up", "down"]} if adapter is LORA else {}
    config = InstructionsTask.model_validate(
        {
            "examples": {"train": "none.jsonl"}, "adapter": {**adapter, **matrices},
            "grid": {"tensor": 2}, "sequence_length": 128,
            "batch": {"sequences": 8, "microbatch": 4}, "kernels": {"default": "reference"},
        }
    )  # fmt: skip
    model = ModelConfig.model_validate({**UNGROUPED, "positions": 128})
    state, step = step_bytes(config, Layout(), model)
    (planned,) = memory(Job.of(config, model, Layout()))
    assert planned.weights + planned.optimizer == state
    assert planned.step == pytest.approx(step, rel=0.06)


RANKS = {
    "model": UNGROUPED,
    "sequence_length": 64,
    "batch": {"sequences": 8, "microbatch": 2},
    "grid": {"data": 2, "tensor": 2, "context": 2},
    "precision": "bf16",
    "kernels": {"default": "reference"},
}


def measure_rank(layout: str, folder: Path) -> None:
    """What one of several ranks keeps of a microbatch, and allocates for its state."""
    parsed, config = Layout.parse(layout), PretrainConfig.model_validate(RANKS)
    with open_mesh(parsed, "cpu", 1) as mesh:
        share = Share(tensor=mesh.tensor(config.grid), context=mesh.context(config.grid))
        kept = saved_bytes(config.model, share, length=64, batch=2, precision="bf16")
        rank = dist.get_rank()
    (folder / f"{rank}.json").write_text(json.dumps(kept))


def test_ranks_keep_their_share(tmp_path: Path) -> None:
    layout = "tensor=2,context=2"
    assert run_ranks(measure_rank, 4, layout, tmp_path) == [0] * 4
    training = PretrainConfig.model_validate(RANKS)
    job = Job.of(training, training.model, Layout.parse(layout))
    measured = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert saved(job, 0) == pytest.approx(max(measured), abs=150)


def measure_step(config: dict[str, Any], layout: str, folder: Path) -> None:
    found = step_bytes(PretrainConfig.model_validate(config), Layout.parse(layout))
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def test_ranks_of_a_pipeline_take_what_is_planned(tmp_path: Path) -> None:
    """With gradients of weights that wait, tied embeddings and an optimizer that is shared."""
    layout = "data=2,pipeline=2,schedule=zero_bubble"
    config = {
        **RANKS,
        "model": {**UNGROUPED, "layers": 8},
        "grid": {"data": 2},
        "batch": {"sequences": 32, "microbatch": 2},
    }
    assert run_ranks(measure_step, 4, config, layout, tmp_path) == [0] * 4
    training = PretrainConfig.model_validate(config)
    planned = memory(Job.of(training, training.model, Layout.parse(layout)))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    for stage, mine in enumerate(planned):
        states, steps = zip(*found[2 * stage : 2 * stage + 2], strict=True)
        # Blocks are owned whole, so one rank has a little more than the other.
        assert mine.weights + mine.optimizer == pytest.approx(sum(states) / 2, rel=0.015)
        assert mine.step == pytest.approx(max(steps), rel=0.1)


def job(layout: str, **changes: Any) -> Job:
    config = PretrainConfig.model_validate({**RANKS, "model": {**UNGROUPED, "layers": 8}})
    return Job(config.model, Layout.parse(layout), 64, 32, 1, **changes)


def test_the_first_stages_hold_most_microbatches() -> None:
    ranks = [m.activations for m in memory(job("pipeline=4"))]
    blocks = saved(job("pipeline=4"), 1)
    assert ranks[1] == pytest.approx(3 * blocks)
    assert ranks[2] == pytest.approx(2 * blocks)
    assert ranks[0] > ranks[1]


def test_what_spreading_saves() -> None:
    alone, spread = memory(job("data=1"))[0], memory(job("data=4"))[0]
    assert spread.optimizer == pytest.approx(alone.optimizer / 4, rel=0.01)
    assert spread.weights == alone.weights
    (tensor,) = memory(job("tensor=4"))
    assert alone.weights / 4 < tensor.weights < alone.weights / 3  # norms and angles are whole
    assert memory(job("data=1", precision="fp32"))[0].optimizer == pytest.approx(
        alone.optimizer * 8 / 12
    )


def test_recomputing_saves_activations() -> None:
    choices: tuple[Recompute, ...] = ("none", "selective", "full")
    kept = [memory(job("data=1", recompute=choice))[0].activations for choice in choices]
    assert kept == sorted(kept, reverse=True)
    assert kept[2] < kept[0] / 4
