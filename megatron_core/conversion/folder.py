"""A model in a Hugging Face folder, opened and checked before anything is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from megatron_core.config import ModelConfig
from megatron_core.conversion.certificate import same_bits
from megatron_core.conversion.families import FAMILIES
from megatron_core.conversion.family import Family
from megatron_core.conversion.tensor_files import TensorFiles
from megatron_core.conversion.tensors import Converted, Link
from megatron_core.errors import IntegrityError, ReforgeError

CONFIG = "config.json"
LOSSLESS = (torch.float32, torch.bfloat16, torch.float16)  # into fp32


@dataclass(frozen=True)
class HuggingFaceModel:
    """A model in a folder, whose tensors are read when they are asked for.

    Attributes:
        folder: Where it lies.
        family: What it is there.
        config: What it is here.
        links: Their tensors and ours.
        files: Their tensors, by the names of today's transformers.
        left_out: Names of tensors in the files that the logits do not need.
    """

    folder: Path
    family: Family
    config: ModelConfig
    links: tuple[Link, ...]
    files: TensorFiles
    left_out: tuple[str, ...]

    @property
    def weights(self) -> Converted:
        """Our tensors in fp32, each read when it is asked for."""
        return Converted(self.links, self.files)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """In what the weights are stored."""
        return {self.files.stored[link.theirs].dtype for link in self.links}

    @classmethod
    def open(cls, folder: Path) -> HuggingFaceModel:
        """Read settings and headers, and check that all of it can be mapped exactly.

        No code of the folder runs and nothing is unpickled.

        Raises:
            ReforgeError: the model is of no family here, has a setting or a tensor that ours has
                not, or lacks one; each by name.
            IntegrityError: a file is missing, truncated or damaged.
        """
        settings = read_json(folder / CONFIG)
        family, config = read_settings(settings, str(folder / CONFIG))
        links = tuple(family.links(config))
        files, left_out = _named(TensorFiles.open(folder), family, links, config, folder)
        _check(files, links, folder)
        return cls(folder, family, config, links, files, left_out)


def read_settings(settings: Mapping[str, Any], where: str) -> tuple[Family, ModelConfig]:
    """The family and our configuration of the model that a ``config.json`` describes.

    What it leaves out or says in the words of older libraries is what transformers takes it for.

    Raises:
        ReforgeError: naming each setting that cannot be mapped; ``where`` names the file.
    """
    from transformers import CONFIG_MAPPING

    kind = settings.get("model_type")
    family = next((f for f in FAMILIES if f.model_type == kind), None)
    if family is None:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ReforgeError(f"{where}: model_type is {kind!r}; what can be mapped is {known}")
    if settings.get("quantization_config"):
        raise ReforgeError(f"{where}: the weights are quantized; get those that are not")
    try:
        full = CONFIG_MAPPING[kind].from_dict(dict(settings))
    except Exception as error:  # the library raises whatever its checks do
        raise ReforgeError(f"{where} is no {kind}: {error}") from error
    return family, family.read(_Attributes(full), where)


class _Attributes(Mapping[str, Any]):
    """A configuration of transformers by name, also by the other names that it answers to."""

    def __init__(self, config: Any) -> None:
        self._config, self._names = config, config.to_dict().keys()

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self._config, name)
        except AttributeError as error:
            raise KeyError(name) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ReforgeError where it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReforgeError(f"{path} does not exist: name a model's folder") from error
    except (OSError, ValueError) as error:
        raise ReforgeError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ReforgeError(f"{path} cannot be read: it is no JSON object")
    return cast(dict[str, Any], value)


def _named(
    files: TensorFiles, family: Family, links: tuple[Link, ...], config: ModelConfig, folder: Path
) -> tuple[TensorFiles, tuple[str, ...]]:
    """The tensors of the model by today's names, and the names of those that are left out."""
    wanted = {link.theirs for link in links}
    twins = family.twins if config.tied_embeddings else {}
    found, left_out = {}, []
    for stored, tensor in files.stored.items():
        name = _today(stored, family, wanted | set(twins))
        if name in found:
            raise IntegrityError(f"{folder} has {name} twice, once as {stored}")
        if name in wanted:
            found[name] = tensor
        elif name in twins:
            owner = next((t for n, t in files.stored.items()
                          if _today(n, family, wanted) == twins[name]), None)  # fmt: skip
            if owner is None or not same_bits(owner.read(), tensor.read()):
                raise ReforgeError(
                    f"{folder}: config.json ties {stored} to {twins[name]}, but they differ: set "
                    "tie_word_embeddings to what the model was trained with"
                )
            left_out.append(stored)
        elif any(re.fullmatch(pattern, name) for pattern in family.left_out):
            left_out.append(stored)
        else:
            found[stored] = tensor  # named as unknown
    return TensorFiles(found), tuple(sorted(left_out))


def _today(stored: str, family: Family, known: set[str]) -> str:
    """What a tensor that files have as ``stored`` is called in them today."""
    name = stored
    for old, new in family.older:
        if name.endswith(old):
            name = name.removesuffix(old) + new
    if name not in known and family.prefix + name in known:
        return family.prefix + name
    return name


def _check(files: TensorFiles, links: tuple[Link, ...], folder: Path) -> None:
    """Check that the tensors are those of the model, no more and no less."""
    shapes = {link.theirs: link.shape for link in links}
    problems = [f"{name} is missing" for name in shapes if name not in files.stored]
    for name, tensor in files.stored.items():
        if name not in shapes:
            problems.append(f"{name} is no part of the model")
        elif tensor.shape != shapes[name]:
            problems.append(f"{name} is {list(tensor.shape)}, not {list(shapes[name])}")
        elif tensor.dtype not in LOSSLESS:
            problems.append(f"{name} is {tensor.dtype}, which fp32 cannot hold exactly")
    if problems:
        shown = problems[:20] + [f"and {len(problems) - 20} more"] * (len(problems) > 20)
        raise ReforgeError(f"{folder} does not fit its configuration:\n  " + "\n  ".join(shown))
