"""The whole model that an adapter makes of the one that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint import (
    Checkpoint,
    Placement,
    StoredWeights,
    checkpoint_path,
    read_checkpoint,
    save_weights,
)
from megatron_core.config import AdapterConfig, LoraConfig
from megatron_core.exchange import WHOLE, ModelFolder
from megatron_core.model import (
    LanguageModel,
    Share,
    TaskModel,
    add_adapter,
    merged,
    parameter_shards,
)
from megatron_core.parallel.backends import DTYPES
from megatron_core.parallel.engine import Engine
from megatron_core.trainer.loop import Trainer
from megatron_core.trainer.objective import Objective
from megatron_core.trainer.run import TrainingRun


class AdaptedWeights(Mapping[str, Tensor]):
    """A model's weights after an adapter was trained: each read, and changed, when asked for.

    Those that were not trained are as they were, and changed matrices are what was computed with.
    """

    def __init__(
        self, base: Mapping[str, Tensor], trained: Path, *, prefix: str = "", scale: float,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        """
        Args:
            base: The weights before.
            trained: Checkpoint of what was trained.
            prefix: Before the names of ``base`` in the model that was trained.
            scale: Of low-rank changes.
            dtype: That the model computed in.
        """
        self._base, self._prefix = base, prefix
        self._trained = StoredWeights(trained)
        self._placements: Mapping[str, Placement] = read_checkpoint(trained).tensors
        self._scale, self._dtype = scale, dtype
        factors = {name for name in self._trained if name.endswith((".lora.a", ".lora.b"))}
        self._names = {prefix + name for name in base} | (set(self._trained) - factors)

    def __getitem__(self, name: str) -> Tensor:
        if name in self._trained:
            return self._trained[name]
        whole = self._base[name.removeprefix(self._prefix)]
        change = name.removesuffix("weight") + "lora."
        if f"{change}a" not in self._trained:
            return whole
        a, b = self._trained[f"{change}a"], self._trained[f"{change}b"]
        # Products of the shapes that the grid gave them in training.
        wide, tall = self._placements[f"{change}a"], self._placements[f"{change}b"]
        cut, axis = max((wide, 1), (tall, 0), key=lambda one: one[0].shards)
        shards = range(cut.shards)
        parts = whole.to(self._dtype).chunk(cut.shards, dim=axis)
        rows = b.chunk(cut.shards) if axis == 0 else [b for _ in shards]
        columns = a.chunk(cut.shards, dim=1) if axis == 1 else [a for _ in shards]
        return torch.cat(
            [merged(parts[n], columns[n].contiguous(), rows[n], self._scale) for n in shards],
            dim=axis,
        ).float()  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


class AdapterTrainer(Trainer):
    """Trains an adapter, and leaves the whole model that it makes beside the checkpoints."""

    def __init__(
        self, engine: Engine, objective: Objective, *, run: TrainingRun, start: ModelFolder,
        adapter: AdapterConfig, make: Callable[[Share], LanguageModel | TaskModel],
    ) -> None:  # fmt: skip
        """
        Args:
            engine: With a model that has the adapter.
            objective: What it minimizes.
            run: Where.
            start: The model without the adapter.
            adapter: What is trained.
            make: Builds the model without values and adapter.
        """
        super().__init__(engine, objective, run=run)
        self._start, self._adapter, self._make = start, adapter, make

    def train(self) -> tuple[Path, Checkpoint]:
        """As any training; the whole model is in ``whole`` of the run's folder."""
        path, checkpoint = super().train()
        whole = checkpoint_path(self.run.folder / WHOLE / "checkpoints", 0)
        if self.mesh.is_first:
            self._save_whole(whole, path, checkpoint)
        self.mesh.any(False)  # the others wait until it is there
        return path, checkpoint

    def _save_whole(self, folder: Path, trained: Path, checkpoint: Checkpoint) -> None:
        with torch.device("meta"):
            model = self._make(Share())
            body, prefix = body_of(model)
            add_adapter(body, self._adapter)
        adapter = self._adapter
        weights = AdaptedWeights(
            self._start.weights, trained, prefix=prefix, dtype=DTYPES[self.config.precision],
            scale=adapter.alpha / adapter.rank if isinstance(adapter, LoraConfig) else 0.0,
        )  # fmt: skip
        shapes = {
            shard.place.tensor: shard.place.shape
            for shard in parameter_shards(model)
            if shard.place.tensor in weights and shard.place.tensor not in model.tied
        }
        save_weights(folder, weights, shapes, run=checkpoint.run, model=checkpoint.model)


BACKBONE = "backbone."  # before the names of a language model's weights in that of a task


def body_of(model: LanguageModel | TaskModel) -> tuple[LanguageModel, str]:
    """The language model in ``model``, and what stands before the names of its weights."""
    return (model.backbone, BACKBONE) if isinstance(model, TaskModel) else (model, "")
