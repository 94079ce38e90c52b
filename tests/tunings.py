"""Tiny fine-tunings of every kind, from one model, on examples that are functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import (
    AdamW,
    AdapterConfig,
    BatchSizes,
    Checkpoints,
    Grid,
    LoraConfig,
    ModelConfig,
    RateSchedule,
    SoftPromptConfig,
    TaskSettings,
)
from megatron_core.exchange import ModelFolder
from megatron_core.model import (
    HeadSpec,
    LanguageModel,
    PreferenceModel,
    TaskModel,
    initialize,
    parameter_shards,
)
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from megatron_core.trainer import Trainer
from megatron_core.trainer.assemble import describe, fine_tuning
from megatron_core.trainer.examples import ExampleObjective, Examples, tell
from tests.ranks import run_ranks
from tests.recipes import small_model
from tests.trainings import kill_in

LENGTH = 16
PROMPT = 4


@dataclass(frozen=True)
class Tuning:
    """One method: of which model, with which head and adapter."""

    model: ModelConfig
    head: HeadSpec | None = None
    adapter: AdapterConfig | None = None
    preferences: bool = False
    context: int = 1


DECODER = small_model()
# Two segments, and padding that nothing sees.
ENCODER = small_model(kind="encoder", token_types=2, position_embedding="learned")
TUNINGS = {
    "lora": Tuning(DECODER, adapter=LoraConfig(rank=3, matrices=["query", "output", "down"])),
    "lora_context": Tuning(DECODER, adapter=LoraConfig(rank=2, matrices=["up"]), context=2),
    "soft_prompt": Tuning(DECODER, adapter=SoftPromptConfig(tokens=PROMPT, encoder=8), context=2),
    "classes": Tuning(ENCODER, HeadSpec("classes", 3)),
    "first": Tuning(ENCODER, HeadSpec("classes", 3, "first"), SoftPromptConfig(tokens=PROMPT)),
    "last": Tuning(DECODER, HeadSpec("classes", 2, "last"), LoraConfig(rank=2, matrices=["value"])),
    "marks": Tuning(ENCODER, HeadSpec("classes", 4, "marks", marks=2)),
    "value": Tuning(ENCODER, HeadSpec("value", 1)),
    "tags": Tuning(ENCODER, HeadSpec("tags", 5), context=2),
    "span": Tuning(ENCODER, HeadSpec("span", 2)),
    "preferences": Tuning(DECODER, preferences=True),
    "preferences_prompt": Tuning(DECODER, None, SoftPromptConfig(tokens=PROMPT), preferences=True),
}


def settings(tuning: Tuning, **changes: object) -> TaskSettings:
    """Two steps of two microbatches to each of two data shards."""
    fields: dict[str, object] = {
        "steps": 2,
        "sequence_length": LENGTH,
        "batch": BatchSizes(sequences=16, microbatch=4),
        "optimizer": AdamW(learning_rate=1e-2, clip=0.5),
        "schedule": RateSchedule(warmup_steps=1),
        "grid": Grid(data=2, tensor=2, context=tuning.context),
        "checkpoints": Checkpoints(every=1, keep_last=20),
        "validate_every": 1,
        "trackers": [],
        "adapter": tuning.adapter,
    }
    return TaskSettings.model_validate(fields | changes)


def start(model: ModelConfig) -> ModelFolder:
    """Whole initial weights, as a checkpoint would give them."""
    whole = LanguageModel(model)
    initialize(whole, model, seed=3)
    weights = {
        shard.place.tensor: shard.parameter.detach().clone()
        for shard in parameter_shards(whole)
        if shard.place.tensor not in whole.tied
    }
    return ModelFolder(Path("nowhere"), model, weights, None, None)  # type: ignore[arg-type]


def examples(tuning: Tuning, count: int = 23) -> Examples:
    """Texts of different lengths; half of them have a second segment."""
    length = LENGTH - (PROMPT if isinstance(tuning.adapter, SoftPromptConfig) else 0)
    each = 2 if tuning.preferences else 1
    rows = torch.arange(count * each)[:, None]
    places = torch.arange(length)
    tokens = (7 * rows + 3 * places + rows * places) % 60 + 2
    lengths = 4 + (rows * 5) % (length - 3)
    documents = torch.where(places < lengths, 0, -1)
    types = ((places >= lengths // 2) & (rows % 2 == 0) & (documents >= 0)).long()
    made = Examples(
        tokens.where(documents >= 0, 0), documents, _targets(tuning, tokens, documents, rows[:, 0]),
        by_position=tuning.head.kind == "tags" if tuning.head else not tuning.preferences,
        types=types if tuning.model.token_types else None, together=each,
    )  # fmt: skip
    return made.behind(LENGTH - length)


def _targets(tuning: Tuning, tokens: Tensor, documents: Tensor, rows: Tensor) -> Tensor:
    real = documents >= 0
    if tuning.preferences:
        reference = -(rows % 7).double() - 20
        following = tokens.roll(-1, dims=1).where(real & (rows % 3 > 0)[:, None] | real, IGNORED)
        return torch.cat([reference[None], following.T.double()])
    if tuning.head is None:
        return tokens.roll(-1, dims=1).where(real, IGNORED)
    kind, outputs = tuning.head.kind, tuning.head.outputs
    if kind == "tags":
        return (tokens % outputs).where(real & (tokens % 3 > 0), IGNORED)
    last = real.sum(dim=1) - 1
    if kind == "span":
        return torch.stack([last // 2, last])
    if kind == "value":
        return (rows % 5).double()[None] / 2
    labels = rows % outputs
    marks = [last // 3, last][: tuning.head.marks]
    return torch.stack([labels, *marks])


def trainer(
    name: str, folder: Path, mesh: Mesh, start: ModelFolder, config: TaskSettings
) -> Trainer:
    """What trains the tuning ``name``."""
    tuning = TUNINGS[name]
    read = examples(tuning)
    objective = ExampleObjective(read, examples(tuning, 5), seed=config.seed)
    return fine_tuning(
        name, config, tuning.adapter, start, make(tuning), objective, describe(start.config), {},
        folder, mesh,
    )  # fmt: skip


def make(tuning: Tuning) -> partial[LanguageModel | TaskModel]:
    """What builds a share of the model, without values."""
    prompt = tuning.adapter.tokens if isinstance(tuning.adapter, SoftPromptConfig) else 0
    if tuning.preferences:
        return partial(PreferenceModel, tuning.model, 0.5, prompt=prompt)
    if tuning.head is None:
        return partial(LanguageModel, tuning.model)
    head = HeadSpec(**{**tuning.head.described(), "prompt": prompt})
    return partial(TaskModel, tuning.model, head)


def tune(
    name: str, folder: Path, layout: str = "data=1", *, kill_at: int = 0, **changes: object
) -> bool:
    """Train on a layout, and leave what the model tells of the test examples on each rank.

    Args:
        kill_at: Step in which the last rank dies; 0 spares it.

    Returns:
        Whether all ranks came to the end.
    """
    ranks = Layout.parse(layout).ranks
    return not any(run_ranks(_work, ranks, name, folder, layout, kill_at, changes))


def _work(name: str, folder: Path, text: str, kill_at: int, changes: dict[str, object]) -> None:
    config, layout = settings(TUNINGS[name], **changes), Layout.parse(text)
    with open_mesh(layout, "cpu", 1) as mesh:
        one = trainer(name, folder, mesh, start(TUNINGS[name].model), config)
        if mesh.rank == layout.ranks - 1:
            kill_in(one, kill_at)
        one.train()
        torch.save(tell(one.engine, examples(TUNINGS[name], 5)), folder / f"told-{mesh.rank}.pt")
