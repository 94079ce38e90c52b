"""The three trainings of the pipeline, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from megatron_core.checkpoint import load_weights, read_checkpoint
from megatron_core.config import (
    ClassificationConfig,
    ContinuedConfig,
    ModelConfig,
    PretrainConfig,
)
from megatron_core.model import Classifier, LanguageModel, initialize
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.classification import ClassificationObjective, Examples
from megatron_core.trainer.language import LanguageObjective
from megatron_core.trainer.loop import Trainer
from megatron_core.trainer.run import TrainingRun


def pretraining(
    config: PretrainConfig, tokens: Path, inputs: Mapping[str, str], folder: Path, mesh: Mesh
) -> Trainer:
    """A decoder from initial weights on the tokenized sources in ``tokens``."""
    model = LanguageModel(config.model)
    initialize(model, config.model, config.seed)
    run = TrainingRun.of(
        folder, "pretrain", recipe=config.identity(), inputs=inputs, model=describe(model)
    )
    return Trainer(model, _language(config, tokens, mesh), config, run=run, mesh=mesh)


def continued_pretraining(
    config: ContinuedConfig, start: Path, tokens: Path, inputs: Mapping[str, str], folder: Path,
    mesh: Mesh,
) -> Trainer:  # fmt: skip
    """The decoder of checkpoint ``start``, trained on with a fresh optimizer."""
    checkpoint = read_checkpoint(start)
    model = LanguageModel(ModelConfig.model_validate(checkpoint.model["config"]))
    load_into(model, start)
    run = TrainingRun.of(
        folder, "continued", recipe=config.identity(),
        inputs={**inputs, "start": checkpoint.root}, model=describe(model),
    )  # fmt: skip
    return Trainer(model, _language(config, tokens, mesh), config, run=run, mesh=mesh)


def classification(
    config: ClassificationConfig, start: Path, train: Examples, test: Examples,
    classes: list[str], inputs: Mapping[str, str], folder: Path, mesh: Mesh,
) -> Trainer:  # fmt: skip
    """A classifier on the decoder of checkpoint ``start``; all weights are trained."""
    checkpoint = read_checkpoint(start)
    decoder = ModelConfig.model_validate(checkpoint.model["config"])
    model = Classifier(decoder, len(classes))
    initialize(model, decoder, config.seed)
    load_into(model.decoder, start)
    run = TrainingRun.of(
        folder, "classification", recipe=config.identity(),
        inputs={**inputs, "start": checkpoint.root},
        model={**describe(model), "classes": classes},
    )  # fmt: skip
    objective = ClassificationObjective(train, test, seed=config.seed, device=mesh.device)
    return Trainer(model, objective, config, run=run, mesh=mesh)


def load_into(model: nn.Module, checkpoint: Path) -> None:
    """Copy the weights of ``checkpoint`` into the parameters of ``model`` that it has."""
    weights = load_weights(checkpoint)
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.data.copy_(weights[name])


def describe(model: LanguageModel | Classifier) -> dict[str, object]:
    """What a checkpoint keeps so that the model can be built again."""
    return {"kind": type(model).__name__.lower(), "config": model.config.model_dump(mode="json")}


def _language(
    config: PretrainConfig | ContinuedConfig, tokens: Path, mesh: Mesh
) -> LanguageObjective:
    return LanguageObjective(
        tokens,
        sequence_length=config.sequence_length,
        sources=config.sources,
        seed=config.seed,
        device=mesh.device,
    )
