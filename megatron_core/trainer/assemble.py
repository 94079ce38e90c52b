"""The trainings of the pipeline, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from megatron_core.config import (
    AdapterConfig,
    ContinuedConfig,
    ModelConfig,
    PredictionConfig,
    PretrainConfig,
    TrainingConfig,
)
from megatron_core.data.datasets.fingerprints import IndexCache, Stamps, verify_tokens
from megatron_core.errors import ConfigError
from megatron_core.exchange import ModelFolder
from megatron_core.model import (
    LanguageModel,
    Share,
    TaskModel,
    add_adapter,
    initialize,
    load_parameters,
)
from megatron_core.parallel.backends import chosen_kernels
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.adapted import AdapterTrainer, body_of
from megatron_core.trainer.examples import Examples, tell
from megatron_core.trainer.language import LanguageObjective, MaskedObjective
from megatron_core.trainer.loop import Trainer
from megatron_core.trainer.objective import Objective
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
        folder, "pretrain", recipe=_recipe(config), inputs=inputs, model=description
    )
    objective = prediction_objective(config, config.model, tokens, folder)
    return Trainer(Engine(build, config, mesh, model=config.model), objective, run=run)


def continued_pretraining(
    config: ContinuedConfig, start: ModelFolder, tokens: Path, inputs: Mapping[str, str],
    folder: Path, mesh: Mesh,
) -> Trainer:  # fmt: skip
    """The language model ``start``, trained on with a fresh optimizer."""
    objective = prediction_objective(config, start.config, tokens, folder)
    return fine_tuning(
        "continued", config, config.adapter, start, partial(LanguageModel, start.config),
        objective, describe(start.config), inputs, folder, mesh,
    )  # fmt: skip


def _recipe(config: TrainingConfig) -> dict[str, Any]:
    """What a run is known by of its recipe: with the kernels that it gets, however asked for."""
    chosen = {one.operation: one.backend for one in chosen_kernels(config)}
    return {**config.identity(), "kernels": chosen}


def fine_tuning(
    name: str, config: TrainingConfig, adapter: AdapterConfig | None, start: ModelFolder,
    make: Callable[[Share], LanguageModel | TaskModel], objective: Objective,
    description: Mapping[str, object], inputs: Mapping[str, str], folder: Path, mesh: Mesh,
) -> Trainer:  # fmt: skip
    """Any training that begins with the weights of a model.

    Args:
        name: Of the run.
        adapter: What is trained in place of the start's weights; None trains these.
        make: The model to train, without values.
        description: What is needed to build it again.
        inputs: Roots of what the objective reads.
        folder: Of the runs.
    """

    def build(share: Share) -> LanguageModel | TaskModel:
        return begin(make(share), start, adapter, config.seed)

    known, root = dict(description), start.root(mesh.groups.get("checkpoint"))
    if adapter is not None:
        known |= {"adapter": adapter.model_dump(mode="json"), "base": root}
    run = TrainingRun.of(
        folder, name, recipe=_recipe(config), inputs={**inputs, "start": root}, model=known
    )
    engine = Engine(build, config, mesh, model=start.config)
    if adapter is None:
        return Trainer(engine, objective, run=run)
    return AdapterTrainer(engine, objective, run=run, start=start, adapter=adapter, make=make)


def tell_start(
    start: ModelFolder, make: Callable[[Share], LanguageModel | TaskModel], config: TrainingConfig,
    examples: Examples, mesh: Mesh,
) -> list[Tensor]:  # fmt: skip
    """What a model tells of each example before it is trained; see :func:`tell`."""

    def build(share: Share) -> LanguageModel | TaskModel:
        model = make(share)
        load_parameters(model, start.weights)
        return model.requires_grad_(False)

    engine = Engine(build, config, mesh, model=start.config)
    return tell(engine, examples.padded(config.sequence_length))


def begin(
    model: LanguageModel | TaskModel, start: ModelFolder, adapter: AdapterConfig | None, seed: int
) -> LanguageModel | TaskModel:
    """Give ``model`` the weights of ``start``, an adapter, and initial values for all others."""
    body, prefix = body_of(model)
    load_parameters(body, start.weights)
    if adapter is not None:
        add_adapter(body, adapter)
    known = {f"{prefix}{name}" for name in start.weights}
    initialize(model, start.config, seed, known=known)
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
