"""A model family of another library: its settings and its tensors, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from megatron_core.config import ExpertsConfig, ModelConfig
from megatron_core.conversion.settings import Rule, Settings, Unmapped
from megatron_core.conversion.tensors import Link, TensorRule, link_tensors
from megatron_core.errors import ReforgeError


@dataclass(frozen=True)
class Family:
    """How our model is spelled in a Hugging Face folder.

    Attributes:
        model_type: As ``config.json`` says it.
        architecture: The class with the head of a language model; a rule may name another.
        rules: Settings, ours and theirs; of two that write the same setting the later one counts.
        tensors: Tensors, ours and theirs.
        prefix: What some files leave out before each name of theirs.
        left_out: Regular expressions of tensors that files may hold and the logits do not need.
        older: Endings of names in files of older libraries, and what they are today.
        twins: Of tied tensors those that files may hold a second time, and whose they are.
        training: Settings of training for what ours has not, with the values that mean so.
        unused: Settings that change no logit and that our model says nothing of.
    """

    model_type: str
    architecture: str
    rules: tuple[Rule, ...]
    tensors: tuple[TensorRule, ...]
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    older: tuple[tuple[str, str], ...] = ()
    twins: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The settings of the family's model nearest to ``config``."""
        settings: dict[str, Any] = {"architectures": [self.architecture]}
        for rule in self.rules:
            settings |= rule.write(config)
        return {**settings, **self.training, "model_type": self.model_type}

    def read(self, settings: Settings, where: str) -> ModelConfig:
        """Our configuration from their settings, all of them given.

        Raises:
            ReforgeError: naming each setting that our model cannot have; ``where`` names the file.
        """
        fields: dict[str, Any] = {}
        problems = []
        for rule in self.rules:
            try:
                fields |= rule.read(settings)
            except Unmapped as error:
                problems.append(str(error))
            except (KeyError, ValidationError) as error:
                problems.append(f"{', '.join(sorted(rule.reads))}: {error}")
        if problems:
            raise ReforgeError(f"{where} cannot be mapped exactly:\n  " + "\n  ".join(problems))
        try:
            return ModelConfig(**fields)
        except ValidationError as error:
            raise ReforgeError(f"{where}: {error}") from error

    def nearest(self, config: ModelConfig) -> ModelConfig:
        """The family's model that is most like ``config``."""
        return self.read(self.write(config), self.model_type)

    def differences(self, config: ModelConfig) -> list[str]:
        """In what ``config`` is no model of the family."""
        ours, theirs = computed(config), computed(self.nearest(config))
        return [
            f"{name} is {value!r}, in {self.model_type} {theirs[name]!r}"
            for name, value in ours.items()
            if value != theirs[name]
        ]

    def links(self, config: ModelConfig) -> list[Link]:
        """What each tensor of ``config`` is called in the family."""
        return link_tensors(config, self.tensors, self.model_type)


def computed(config: ModelConfig) -> dict[str, Any]:
    """What the logits of ``config`` are computed from, spelled in one way.

    Left out is what shapes training alone: dropout, initial weights, the router's losses.
    """
    values = config.model_dump(exclude={"dropout", "initial_std"})
    values["head_width"] = config.head_size
    if config.experts is not None:
        values |= {"ffn": config.experts.ffn, "activation": "swiglu", "ffn_bias": False}
        for loss in ("balance_loss", "z_loss"):
            del values["experts"][loss]
    if config.kind == "encoder":
        values["window"] = None
    if config.position_embedding == "learned":
        values |= {"rope_theta": None, "rope_scaling": None}
    values["rope_scaling"] = _scaling(values["rope_scaling"])
    return values


def _scaling(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of a rotary scaling what its kind looks at."""
    if values is None:
        return None
    unseen = {
        "linear": {"original_positions", "low", "high", "sharpness"},
        "llama3": {"sharpness"},
        "yarn": {"low", "high"},
    }[values["kind"]]
    return {name: value for name, value in values.items() if name not in unseen}


def example(family: Family, **changes: Any) -> ModelConfig:
    """A small model of ``family``, for tests and benchmarks: as near to ``changes`` as it has."""
    small: dict[str, Any] = {
        "vocabulary": 96, "positions": 48, "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2,
        "ffn": 56, "token_types": 2, "experts": ExpertsConfig(count=4, chosen=2, ffn=24),
    }  # fmt: skip
    return family.nearest(ModelConfig(**(small | changes)))
