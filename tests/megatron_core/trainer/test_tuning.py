"""Fine-tuning: the same bits on any layout, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_core.checkpoint import (
    Checkpoint,
    StoredWeights,
    find_checkpoints,
    read_checkpoint,
)
from megatron_core.config import SoftPromptConfig
from megatron_core.exchange import WHOLE
from megatron_core.model import LanguageModel, Share, TaskModel, add_adapter, load_parameters
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.adapted import BACKBONE
from megatron_core.trainer.examples import tell
from tests.tunings import TUNINGS, examples, make, settings, start, trainer, tune

Alone = Callable[[str], Path]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The tuning on one rank, which all other layouts are compared with."""
    known: dict[str, Path] = {}

    def tuned(name: str) -> Path:
        if name not in known:
            known[name] = tmp_path_factory.mktemp("alone")
            assert tune(name, known[name])
        return known[name]

    return tuned


def checkpoints(folder: Path, name: str) -> list[Checkpoint]:
    (run,) = folder.glob(f"{name}-*")
    return [read_checkpoint(path) for path in find_checkpoints(run / "checkpoints")]


def steps(folder: Path, name: str) -> str:
    (run,) = folder.glob(f"{name}-*")
    return (run / "steps.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *((name, "data=2,pipeline=2") for name in TUNINGS),
        *((name, "tensor=2") for name in TUNINGS),
        ("lora_context", "tensor=2,context=2"),
        ("soft_prompt", "tensor=2,context=2,pipeline=2"),
        ("tags", "context=2"),
        ("lora", "pipeline=3,schedule=zero_bubble"),
    ],
)
def test_layouts_agree(name: str, layout: str, alone: Alone, tmp_path: Path) -> None:
    assert tune(name, tmp_path, layout)
    ours, theirs = checkpoints(tmp_path, name), checkpoints(alone(name), name)
    assert [one.leaves for one in ours] == [one.leaves for one in theirs]
    assert steps(tmp_path, name) == steps(alone(name), name)
    expected = torch.load(alone(name) / "told-0.pt")
    for told in sorted(tmp_path.glob("told-*.pt")):
        found = torch.load(told)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


ADAPTED = [name for name, tuning in TUNINGS.items() if tuning.adapter is not None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ADAPTED)
def test_the_whole_model_is_the_one_that_was_trained(
    name: str, precision: str, tmp_path: Path
) -> None:
    """To the bit, in what it tells; and what was not trained has the bits it had."""
    tuning = TUNINGS[name]
    config, before = settings(tuning, precision=precision), start(tuning.model)
    test = examples(tuning, 5)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        training = trainer(name, tmp_path, mesh, before, config)
        path, _ = training.train()
        expected = tell(training.engine, test)
        prefix = BACKBONE if tuning.head else ""
        (whole,) = find_checkpoints(training.run.folder / WHOLE / "checkpoints")
        saved = read_checkpoint(whole)

        def build(share: Share) -> LanguageModel | TaskModel:
            model = make(tuning)(share)
            if isinstance(tuning.adapter, SoftPromptConfig):
                add_adapter(model.backbone if isinstance(model, TaskModel) else model,
                            tuning.adapter)  # fmt: skip
            load_parameters(model, StoredWeights(whole))
            return model

        again = tell(Engine(build, config, mesh, model=tuning.model), test)
    assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True))
    trained = set(read_checkpoint(path).tensors)
    changed = {n.removesuffix("lora.a") + "weight" for n in trained if n.endswith("lora.a")}
    assert changed or isinstance(tuning.adapter, SoftPromptConfig)
    stored = StoredWeights(whole)
    for key, weight in before.weights.items():
        if prefix + key in saved.tensors:
            assert torch.equal(stored[prefix + key], weight) == (prefix + key not in changed), key
