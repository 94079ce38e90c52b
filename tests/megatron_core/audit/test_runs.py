"""Two runs are the same or part in a step and a tensor; what is not known is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from megatron_core.audit import compare, compare_runs, start_of_replay
from megatron_core.checkpoint import checkpoint_path, save_checkpoint
from megatron_core.config import KernelsConfig, PretrainConfig
from megatron_core.errors import IntegrityError
from megatron_core.identity import Environment, Manifest, RunRecord, manifest_path
from megatron_core.identity.fingerprints import FingerprintLog
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import pretraining

NAMES = ["embedding.weight/0", "embedding.weight/1", "norm.weight/0"]


def state(step: int, change: float = 0.0) -> dict[str, Tensor]:
    """Weights and a moment that depend on the step; one element of the norm's may be changed."""
    weights = {"weights/embedding.weight": torch.full((4, 3), float(step))}
    weights["weights/norm.weight"] = torch.ones(5) * step
    weights["weights/norm.weight"][2] += change
    return {**weights, "first/norm.weight": torch.ones(5)}


def write_run(
    folder: Path,
    kept: dict[int, float],
    log: dict[int, tuple[list[int], list[int]]] | None = None,
    **about: Any,
) -> Path:
    """A run that keeps checkpoints of the given steps, with a change in each, and a log."""
    settings = {"run": "run", "model": {"kind": "decoder"}, "layout": {"data": 1}, **about}
    for step, change in kept.items():
        path = checkpoint_path(folder / "checkpoints", step)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, state(step, change), step=step, **settings)
    if log is not None:
        folder.mkdir(parents=True, exist_ok=True)
        written = FingerprintLog(folder, NAMES)
        for step, (gradients, weights) in log.items():
            written.append(step, gradients, weights)
    return folder


def log(
    *steps: int, **changes: tuple[int, int]
) -> dict[int, tuple[list[int], list[int]]]:  # fmt: skip
    """Equal numbers at ``steps``, but for ``gradient=(step, column)`` or ``weights=…`` on."""
    rows: dict[int, tuple[list[int], list[int]]] = {s: ([7] * 3, [s] * 3) for s in steps}
    for kind, (first, column) in changes.items():
        for step in steps:
            if step >= first:
                rows[step][kind == "weights"][column] += 1
    return rows


EVERY = range(1, 9)


def test_the_same_bits(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {4: 0, 8: 0}, log(*EVERY))
    theirs = write_run(tmp_path / "b", {6: 0, 8: 0}, log(*EVERY), layout={"data": 2})
    found = compare_runs(ours, theirs)
    assert found.same is True
    assert found.verdict.startswith("the same bits: both have root ")
    assert found.verdict.endswith(" at step 8")
    assert found.details == ["the fingerprints of 8 steps agree, up to step 8"]
    assert compare(ours, theirs, []) == found


def test_what_was_not_compared_is_said(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {4: 0})
    theirs = write_run(tmp_path / "b", {4: 0, 8: 0}, log(*EVERY))
    found = compare_runs(ours, theirs)
    assert found.same is True
    assert found.details == [
        f"gradients of single steps were not compared: {ours} has no fingerprints",
        f"{theirs} goes on to step 8, which was not compared",
    ]


def test_the_first_gradient_that_differs(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {4: 0, 8: 0}, log(*EVERY), layout={"data": 2})
    theirs = write_run(
        tmp_path / "b", {4: 0, 8: 0.5}, log(*EVERY, gradient=(6, 1), weights=(7, 0)),
        layout={"tensor": 2, "data": 1},
    )  # fmt: skip
    found = compare_runs(ours, theirs)
    assert found.same is False
    assert found.verdict == (
        "they part in step 6: from equal weights, the gradient of embedding.weight, grid shard 1 "
        "differs"
    )
    assert found.details == [
        "checkpoints of step 8: 1 tensor differs; the first in name order is weights/norm.weight, "
        "in 1 element, first in grid shard 0 at [2]: 8.0 and 8.5, 524,288 ULPs apart",
        "they ran on the layouts data=2 and data=1,tensor=2, which should change no bit",
    ]
    assert "arithmetic that does not repeat" in found.causes[0]


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (EVERY, "in the update of step 5: the weights of norm.weight, grid shard 0 differ before"),
        ([2, 4, 6, 8], "in the update of a step from 4 to 5, which were not all recorded: the we"),
        ([6, 8], "before step 6, the first that both recorded: the weights of norm.weight, grid"),
    ],
)
def test_the_first_update_that_differs(
    steps: list[int], sentence: str, tmp_path: Path
) -> None:  # fmt: skip
    ours = write_run(tmp_path / "a", {4: 0, 8: 0}, log(*steps))
    theirs = write_run(tmp_path / "b", {4: 0, 8: 0.5}, log(*steps, gradient=(6, 0), weights=(6, 2)))
    assert compare_runs(ours, theirs).verdict.startswith(f"they part {sentence}")


@pytest.mark.parametrize(
    ("logs", "detail"),
    [
        ((None, None), "could not be determined: {0} and {1} have no fingerprints"),
        ((log(1), None), "could not be determined: {1} has no fingerprints"),
        ((log(1), log(2)), "could not be determined: they recorded no step in common"),
        (
            (log(*EVERY), log(*EVERY)),
            "8 steps agree, up to step 8: it arose in the update of step 8, which they do not re",
        ),
        ((log(*EVERY), log(1, 2, 3)), "3 steps agree, up to step 3: it arose after step 3, which"),
        ((log(*EVERY, 9), log(*EVERY, 9)), "up to step 9: neither weights nor gradients show it"),
        (
            (log(*range(1, 12)), log(*range(1, 12), gradient=(11, 1))),
            "weights and gradients agree for longer: they part in step 11: from equal weights",
        ),
    ],
)  # fmt: skip
def test_without_fingerprints_the_checkpoints_bracket_the_step(
    logs: tuple[Any, Any], detail: str, tmp_path: Path
) -> None:
    ours = write_run(tmp_path / "a", {4: 0, 6: 0, 8: 0}, logs[0])
    theirs = write_run(tmp_path / "b", {2: 0, 4: 0, 8: 0.5}, logs[1])
    found = compare_runs(ours, theirs)
    assert found.same is False
    assert found.verdict == (
        "they part after step 4, whose roots are equal, and by step 8, whose roots differ"
    )
    assert detail.format(ours, theirs) in found.details[0]
    assert found.details[1].startswith("checkpoints of step 8: 1 tensor differs")


def test_without_an_earlier_checkpoint(tmp_path: Path) -> None:
    ours, theirs = write_run(tmp_path / "a", {8: 0}), write_run(tmp_path / "b", {8: 0.5})
    assert compare_runs(ours, theirs).verdict == (
        "they part somewhere by step 8, whose roots differ"
    )


def test_no_common_checkpoint(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {4: 0, 6: 0}, log(*EVERY))
    theirs = write_run(tmp_path / "b", {}, log(*EVERY))
    found = compare_runs(ours, theirs)
    assert found.same is None
    assert found.verdict == (
        "not determined: they keep no checkpoint of an equal step "
        f"({ours}: 4, 6 and {theirs}: none)"
    )
    assert found.details == ["the fingerprints of 8 steps agree, up to step 8"]
    other = write_run(tmp_path / "c", {5: 0}, log(*EVERY, gradient=(3, 0)))
    found = compare_runs(ours, other)
    assert found.same is False
    assert found.verdict.startswith("they part in step 3: ")
    assert found.details[0].startswith("tensors were not compared: they keep no checkpoint of an")


def test_runs_that_part_after_their_last_common_checkpoint(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {4: 0}, log(*EVERY))
    theirs = write_run(tmp_path / "b", {4: 0}, log(*EVERY, gradient=(7, 2)))
    found = compare_runs(ours, theirs)
    assert found.same is False
    assert found.verdict.startswith("they part in step 7: ")
    assert found.details[0] == "their checkpoints of step 4, the last in common, are equal"


def test_a_log_that_is_not_of_its_run(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a", {8: 0}, log(*EVERY))
    theirs = write_run(tmp_path / "b", {8: 0}, log(*EVERY, gradient=(3, 0)))
    found = compare_runs(ours, theirs)
    assert found.same is False
    assert found.details[0].endswith("one log is not of the run that wrote them")


def write_manifest(artifact: Path, rate: float = 0.1) -> None:
    environment = Environment(
        cpu="one", instructions="", gpu=None, python="3", system="x", libraries={}
    )
    record = RunRecord(command="x", started="x", seconds=1, layout={}, environment=environment)
    Manifest.of(
        artifact, stage=artifact.name, inputs={"tokenize": "aa"}, record=record,
        recipe={"optimizer": {"learning_rate": rate}, "steps": 8},
    ).write(manifest_path(artifact))  # fmt: skip


def test_causes_are_taken_from_models_identities_and_recipes(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "a/artifacts/pretrain", {8: 0}, model={"layers": 2})
    theirs = write_run(tmp_path / "b/artifacts/pretrain", {8: 1}, model={"layers": 3})
    assert compare_runs(ours, theirs).causes == ["model.layers: 2 here, 3 there"]
    other = write_run(tmp_path / "c", {8: 1}, model={"layers": 2}, run="other")
    (cause,) = compare_runs(ours, other).causes
    assert cause == "the recipe or the inputs: the two runs have different identities"
    write_manifest(ours, 0.1)
    write_manifest(theirs, 0.2)
    assert compare_runs(ours, theirs).causes == [
        "model.layers: 2 here, 3 there",
        "pretrain.optimizer.learning_rate: 0.1 here, 0.2 there",
    ]
    # The projects that they lie in are compared by stage, and then by run.
    found = compare(tmp_path / "a", tmp_path / "b", ["pretrain"])
    assert found.verdict.startswith("pretrain is the first stage that differs: ")
    assert found.details[0] == "they part somewhere by step 8, whose roots differ"
    assert found.causes == compare_runs(ours, theirs).causes


def test_the_run_within_a_stage_that_differs_first(tmp_path: Path) -> None:
    for name, changes in {"a": (0, 0), "b": (0, 1), "c": (1, 1)}.items():
        artifact = tmp_path / name / "artifacts" / "finetune"
        for part, change in zip(("continued", "chapters"), changes, strict=True):
            write_run(artifact / part, {4 if part == "continued" else 8: change})
        write_manifest(artifact)
    for other, step in {"b": 8, "c": 4}.items():
        found = compare(tmp_path / "a", tmp_path / other, ["finetune"])
        assert f"by step {step}," in found.details[0]


def test_only_two_of_a_kind_are_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {4: 0})
    with pytest.raises(IntegrityError, match=r"cannot compare a run with a checkpoint: .* two of"):
        compare(run, run / "checkpoints/step-00000004", [])
    with pytest.raises(IntegrityError, match="cannot compare a pipeline with a run"):
        compare(tmp_path, run, [])


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    ours, theirs = (write_run(tmp_path / name, {4: 0}) for name in "ab")
    (theirs / "checkpoints/step-00000004/checkpoint.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"b/checkpoints/step-00000004.* was torn or altered"):
        compare_runs(ours, theirs)


def test_an_altered_checkpoint_is_not_the_same(tmp_path: Path) -> None:
    ours, theirs = (write_run(tmp_path / name, {2: 0, 4: 0}) for name in "ab")
    file = next((theirs / "checkpoints/step-00000004").rglob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=r"b/checkpoints/step-00000004.* was altered"):
        compare_runs(ours, theirs)


def test_where_a_replay_starts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {2: 0, 4: 0, 12: 0})
    assert start_of_replay(run, None) == run / "checkpoints/step-00000004"
    assert start_of_replay(run, 2) == run / "checkpoints/step-00000002"
    for step in (3, 12, 0):
        with pytest.raises(IntegrityError, match=rf"from step {step}: .* keeps 2, 4, 12; checkpo"):
            start_of_replay(run, step)
    assert start_of_replay(write_run(tmp_path / "b", {2: 0}), None) is None


class Fault:
    """Adds one unit in the last place to an element of a gradient, before a step's update."""

    def __init__(self, trainer: Trainer, step: int, name: str) -> None:
        self.trainer, self.step, self.name = trainer, step, name
        self._measure = trainer.engine.measure

    def __call__(self, *, checksums: bool) -> Any:
        if self.trainer.step + 1 == self.step:
            for bucket in self.trainer.engine.buckets:
                views = bucket.layout.views(bucket.gradient)
                if self.name in views:
                    element = views[self.name].view(-1)[3:4]
                    element.copy_(torch.nextafter(element, torch.full_like(element, 1e9)))
        return self._measure(checksums=checksums)


def train(config: PretrainConfig, tokens: Path, folder: Path, *fault: Any) -> Path:
    with open_mesh(Layout(), "cpu", 1) as mesh:
        trainer = pretraining(config, tokens, {}, folder, mesh)
        if fault:
            trainer.engine.measure = Fault(trainer, *fault)  # type: ignore[method-assign]
        trainer.train()
    return trainer.run.folder


def test_a_bit_that_flips_in_training_is_found(
    tiny: PretrainConfig, tokens: Path, tmp_path: Path
) -> None:
    """The smallest change of one gradient, in real runs; it must not be rounded away."""
    tiny = tiny.model_copy(update={"kernels": KernelsConfig(default="reference")})
    ours = train(tiny, tokens, tmp_path / "a")
    assert compare_runs(ours, train(tiny, tokens, tmp_path / "b")).same is True
    name = "layers.1.attention.key.weight/0"
    theirs = train(tiny, tokens, tmp_path / "c", 5, name)
    found = compare_runs(ours, theirs)
    assert found.verdict == (
        "they part in step 5: from equal weights, the gradient of layers.1.attention.key.weight, "
        "grid shard 0 differs"
    )
    assert found.details[0].startswith("checkpoints of step 6: ")
