"""What is described in YAML and comes with Reforge, or is a file of the user's."""

from __future__ import annotations

import difflib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from megatron_core.config.model import ModelConfig
from megatron_core.config.section import Section
from megatron_core.errors import ConfigError

S = TypeVar("S", bound=Section)


def preset_names(folder: Traversable) -> list[str]:
    """The presets in ``folder``, in order."""
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_yaml(folder: Traversable, name: str) -> dict[str, Any]:
    """The preset ``name`` of ``folder``, or a YAML file of that name, as it is written.

    Raises:
        ConfigError: there is neither, or it is no mapping.
    """
    names = preset_names(folder)
    if name in names:
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in {".yaml", ".yml"}:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name} cannot be read: {error}") from error
    else:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"{folder.name}: there is no {name}; {hint}choose one of {', '.join(names)}, "
            "or name a YAML file"
        )
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must be a mapping, not {type(found).__name__}")
    return found


def validate(kind: type[S], found: dict[str, Any], name: str) -> S:
    """``found`` as a ``kind``.

    Raises:
        ConfigError: it is none; all that is wrong is named.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or name}: {e['msg'][0].lower()}{e['msg'][1:]}"
            for e in error.errors()
        ]
        raise ConfigError("\n".join([f"{name} has {len(lines)} problems", *lines])) from error


def _models() -> Traversable:
    return files(__package__) / "models"


def model_names() -> list[str]:
    """The published models that come with Reforge."""
    return preset_names(_models())


def model_settings(name: str) -> dict[str, Any]:
    """The fields of a published model, or of a YAML file of that name.

    Raises:
        ConfigError: there is neither.
    """
    settings = read_yaml(_models(), name)
    settings.pop("source", None)  # where it is published
    return settings


def read_model(name: str) -> ModelConfig:
    """A published model, or that of a YAML file of that name.

    Raises:
        ConfigError: there is neither, or it is no model; all that is wrong is named.
    """
    return validate(ModelConfig, model_settings(name), name)
