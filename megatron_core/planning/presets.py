"""Models, machines and trainers described in YAML: those that come with Reforge, or a file."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from megatron_core.config import Section
from megatron_core.errors import ConfigError

S = TypeVar("S", bound=Section)


def preset_names(folder: str) -> list[str]:
    """The presets in ``folder``: models, hardware or software."""
    entries = (files(__package__) / folder).iterdir()
    return sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml"))


def read_preset(kind: type[S], folder: str, name: str) -> S:
    """The preset ``name`` of ``folder``, or a YAML file of that name.

    Raises:
        ConfigError: there is neither, or the file is no ``kind``; all that is wrong is named.
    """
    names = preset_names(folder)
    if name in names:
        text = (files(__package__) / folder / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in {".yaml", ".yml"}:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name} cannot be read: {error}") from error
    else:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"{folder}: there is no {name}; {hint}choose one of {', '.join(names)}, "
            "or name a YAML file"
        )
    try:
        return kind.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or name}: {e['msg'][0].lower()}{e['msg'][1:]}"
            for e in error.errors()
        ]
        raise ConfigError("\n".join([f"{name} has {len(lines)} problems", *lines])) from error
