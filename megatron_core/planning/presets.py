"""Machines and trainers described in YAML: those that come with Reforge, or a file."""

from __future__ import annotations

from importlib.resources import files
from typing import TypeVar

from megatron_core.config import Section
from megatron_core.config.presets import preset_names as names_in
from megatron_core.config.presets import read_yaml, validate

S = TypeVar("S", bound=Section)


def preset_names(folder: str) -> list[str]:
    """The presets in ``folder``: hardware or software."""
    return names_in(files(__package__) / folder)


def read_preset(kind: type[S], folder: str, name: str) -> S:
    """The preset ``name`` of ``folder``, or a YAML file of that name.

    Raises:
        ConfigError: there is neither, or the file is no ``kind``; all that is wrong is named.
    """
    return validate(kind, read_yaml(files(__package__) / folder, name), name)
