"""Weights that are not trained: their bits, what is kept for them, and engines with no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_core.checkpoint import find_checkpoints, read_checkpoint
from megatron_core.exchange import WHOLE
from megatron_core.model import LanguageModel, Share, TaskModel, load_parameters
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.examples import tell
from tests.ranks import run_ranks
from tests.tunings import TUNINGS, examples, make, settings, start, trainer, tune


def roots(folder: Path, name: str) -> list[str]:
    """Of all checkpoints, and of the whole model at the end."""
    (run,) = folder.glob(f"{name}-*")
    found = [*find_checkpoints(run / "checkpoints"), *find_checkpoints(run / WHOLE / "checkpoints")]
    return [read_checkpoint(path).root for path in found]


@pytest.mark.parametrize(
    ("name", "layout", "changes"),
    [
        ("soft_prompt", "pipeline=3", {}),
        ("soft_prompt", "pipeline=3,schedule=zero_bubble", {}),
        ("lora", "data=2", {"recompute": "full"}),
        ("lora", "tensor=2", {"recompute": "selective"}),
        ("soft_prompt", "tensor=2", {"recompute": "full"}),
        ("lora", "pipeline=2,tensor=2,schedule=zero_bubble", {"precision": "bf16"}),
        ("lora", "tensor=2", {"precision": "fp16"}),
        ("soft_prompt", "context=2", {"precision": "bf16"}),
        ("last", "pipeline=3", {"precision": "fp16"}),
        ("preferences", "tensor=2", {"precision": "bf16"}),
    ],
)
def test_layouts_agree(name: str, layout: str, changes: dict[str, object], tmp_path: Path) -> None:
    """Also where a stage has nothing to train; and what is computed again has the same bits."""
    plain = {k: v for k, v in changes.items() if k != "recompute"}
    assert tune(name, tmp_path / "alone", **plain)
    assert tune(name, tmp_path / "layout", layout, **changes)
    assert roots(tmp_path / "layout", name) == roots(tmp_path / "alone", name)


@pytest.mark.parametrize("name", ["lora", "soft_prompt"])
def test_killed_and_resumed_it_leaves_the_same(name: str, tmp_path: Path) -> None:
    assert tune(name, tmp_path / "alone", steps=4)
    assert not tune(name, tmp_path / "killed", "data=2", kill_at=3, steps=4)
    assert tune(name, tmp_path / "killed", "tensor=2", steps=4)
    assert roots(tmp_path / "killed", name) == roots(tmp_path / "alone", name)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("lora", "data=1"), ("lora", "tensor=2"), ("soft_prompt", "data=1"),
        ("soft_prompt", "pipeline=3"),
    ],
)  # fmt: skip
def test_no_bit_of_a_frozen_weight_changes(name: str, layout: str, tmp_path: Path) -> None:
    assert not any(run_ranks(_stay, Layout.parse(layout).ranks, name, layout, tmp_path))


def _stay(name: str, text: str, folder: Path) -> None:
    with open_mesh(Layout.parse(text), "cpu", 1) as mesh:
        training = trainer(name, folder, mesh, start(TUNINGS[name].model), settings(TUNINGS[name]))
        kept = [x.clone() for x in untrained(training.engine)]
        changed = [weight.clone() for weight in training.engine.changes]
        training.train()
        assert len(kept) > 3
        assert all(
            torch.equal(*pair) for pair in zip(untrained(training.engine), kept, strict=True)
        )
        for before, now in zip(changed, training.engine.changes, strict=True):
            assert not torch.equal(before, now)


def untrained(engine: Engine) -> list[Tensor]:
    """Frozen weights, and what changed matrices were before."""
    found = []
    for stage in engine.stages.values():
        found += [p for p in stage.parameters() if not p.requires_grad and p not in engine.changes]
        found += [buffer for name, buffer in stage.named_buffers() if ".lora.base" in name]
    return found


@pytest.mark.parametrize("name", ["lora", "soft_prompt"])
def test_nothing_is_kept_for_a_frozen_weight(name: str, tmp_path: Path) -> None:
    tuning = TUNINGS[name]
    config = settings(tuning)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        training = trainer(name, tmp_path, mesh, start(tuning.model), config)
        engine = training.engine
        engine.gradient(training.objective.read, 1)
        trained = [p for stage in engine.stages.values() for p in stage.parameters()
                   if p.requires_grad]  # fmt: skip
        count = sum(p.numel() for p in trained)
        for kind in ("weights", "first", "second"):
            kept = [run.data.numel() for run in engine.state() if run.kind == kind]
            assert sum(kept) == count
        sizes = [bucket.gradient.numel() for bucket in engine.buckets]
        assert count <= sum(sizes) < 1.1 * count  # shards begin at round numbers
        assert sum(bucket.weights.numel() for bucket in engine.buckets) == sum(sizes)
        parameters = [p for stage in engine.stages.values() for p in stage.parameters()]
        assert all(p.grad is None for p in parameters)
        assert sum(p.numel() for p in parameters) > 5 * count


@pytest.mark.parametrize("layout", ["data=1", "data=2", "tensor=2", "pipeline=3"])
@pytest.mark.parametrize("name", ["preferences", "lora"])
def test_an_engine_that_trains_nothing_tells_what_one_that_trains_does(
    name: str, layout: str, tmp_path: Path
) -> None:
    """Such as the model that preferences refer to."""
    assert not any(run_ranks(_tell_frozen, Layout.parse(layout).ranks, name, layout))


def _tell_frozen(name: str, text: str) -> None:
    tuning = replace(TUNINGS[name], adapter=None)
    folder, config = start(tuning.model), settings(tuning)

    def build(share: Share) -> LanguageModel | TaskModel:
        model = make(tuning)(share)
        load_parameters(model, folder.weights)
        return model.requires_grad_(train)

    told = {}
    with open_mesh(Layout.parse(text), "cpu", 1) as mesh:
        for train in (False, True):
            engine = Engine(build, config, mesh, model=tuning.model)
            assert bool(engine.catalogue) == train
            told[train] = tell(engine, examples(tuning, 5))
    assert len(told[True]) == 5
    assert all(torch.equal(*pair) for pair in zip(told[True], told[False], strict=True))
