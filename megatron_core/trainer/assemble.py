"""The three trainings of the pipeline, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_core.checkpoint import StoredWeights, read_checkpoint
from megatron_core.config import (
    ClassificationConfig,
    ContinuedConfig,
    ModelConfig,
    PredictionConfig,
    PretrainConfig,
)
from megatron_core.data.datasets.fingerprints import IndexCache, Stamps, verify_tokens
from megatron_core.errors import ConfigError
from megatron_core.exchange import ModelFolder
from megatron_core.model import Classifier, LanguageModel, Share, initialize, load_parameters
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.classification import ClassificationObjective, Examples
from megatron_core.trainer.language import LanguageObjective, MaskedObjective
from megatron_core.trainer.loop import Trainer
from megatron_core.trainer.pairs import PairObjective
from megatron_core.trainer.run import TrainingRun
from megatron_core.trainer.start import open_start


def pretraining(
    config: PretrainConfig, tokens: Path, inputs: Mapping[str, str], folder: Path, mesh: Mesh,
    *, tokenizer: Path | None = None,
) -> Trainer:  # fmt: skip
    """A model from initial weights, or from those in ``config.start``, on the tokenized sources.

    Args:
        config: Of the training.
        tokens: The artifact of stage tokenize.
        inputs: Roots of what it is trained on.
        folder: Of the runs.
        mesh: The ranks.
        tokenizer: What made the tokens, which must be that of ``config.start``; None checks none.
    """
    start = None
    if config.start is not None:
        start = open_start(Path(config.start), config.model, tokenizer)
        inputs = {**inputs, "start": start.root(mesh.groups.get("checkpoint"))}

    def build(share: Share) -> LanguageModel:
        model = LanguageModel(config.model, share)
        if start is None:
            initialize(model, config.model, config.seed)
        else:
            load_parameters(model, start.weights)
        return model

    description = describe(config.model)
    run = TrainingRun.of(
        folder, "pretrain", recipe=config.identity(), inputs=inputs, model=description
    )
    objective = prediction_objective(config, config.model, tokens, folder)
    return Trainer(Engine(build, config, mesh, model=config.model), objective, run=run)


def continued_pretraining(
    config: ContinuedConfig, start: Path, tokens: Path, inputs: Mapping[str, str], folder: Path,
    mesh: Mesh,
) -> Trainer:  # fmt: skip
    """The model of checkpoint ``start``, trained on with a fresh optimizer."""
    found = ModelFolder.open(start)
    objective = prediction_objective(config, found.config, tokens, folder)

    def build(share: Share) -> LanguageModel:
        model = LanguageModel(found.config, share)
        load_parameters(model, found.weights)
        return model

    run = TrainingRun.of(
        folder, "continued", recipe=config.identity(),
        inputs={**inputs, "start": found.root()}, model=describe(found.config),
    )  # fmt: skip
    return Trainer(Engine(build, config, mesh, model=found.config), objective, run=run)


def classification(
    config: ClassificationConfig, start: Path, train: Examples, test: Examples,
    classes: list[str], inputs: Mapping[str, str], folder: Path, mesh: Mesh,
) -> Trainer:  # fmt: skip
    """A classifier on the decoder of checkpoint ``start``; all weights are trained."""
    found = ModelFolder.open(start)

    def build(share: Share) -> Classifier:
        model = Classifier(found.config, len(classes), share)
        initialize(model, found.config, config.seed)
        load_parameters(model.decoder, found.weights)
        return model

    run = TrainingRun.of(
        folder, "classification", recipe=config.identity(),
        inputs={**inputs, "start": found.root()},
        model={**describe(found.config), "kind": "classifier", "classes": classes},
    )  # fmt: skip
    engine = Engine(build, config, mesh, model=found.config)
    return Trainer(engine, ClassificationObjective(train, test, seed=config.seed), run=run)


def load_classifier(checkpoint: Path) -> Classifier:
    """The whole classifier that ``checkpoint`` holds, on the CPU."""
    description = read_checkpoint(checkpoint).model
    config = ModelConfig.model_validate(description["config"])
    model = Classifier(config, len(description["classes"]))
    load_parameters(model, StoredWeights(checkpoint))
    return model


def describe(config: ModelConfig) -> dict[str, object]:
    """What a checkpoint keeps so that the model can be built again."""
    return {"kind": config.kind, "config": config.model_dump(mode="json")}


def prediction_objective(
    config: PredictionConfig, model: ModelConfig, tokens: Path, folder: Path
) -> LanguageObjective:
    """What the kind of the model is trained to predict, and in which order.

    Args:
        config: Of the training.
        model: Its architecture.
        tokens: The artifact of stage tokenize; its files must be those recorded.
        folder: Of the runs, where indices and hashes are kept.

    Raises:
        IntegrityError: a file of tokens was changed.
        CorpusError: a source is missing, or fills no sequence.
        ConfigError: a model with a pooler is not to be trained on pairs, or one without is.
    """
    pairs = model.kind == "encoder" and config.masking.pairs != "none"
    if pairs != model.pooler:
        raise ConfigError(
            f"masking.pairs is {config.masking.pairs}, but the model to train "
            + ("has a pooler, which only pairs train" if model.pooler else "has no pooler")
            + ": change masking.pairs, or start from another model"
        )
    indices = folder / "data"
    verify_tokens(tokens, Stamps(indices / "stamps.json"))
    if model.kind == "decoder":
        return LanguageObjective(tokens, config, IndexCache(indices))
    objective = PairObjective if pairs else MaskedObjective
    return objective(tokens, config, model.vocabulary, IndexCache(indices))
