"""Models in folders, where checkpoints and the formats of other libraries meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from megatron_core.checkpoint import (
    Checkpoint,
    StoredWeights,
    checkpoint_path,
    find_checkpoints,
    read_checkpoint,
    save_weights,
    weights_root,
)
from megatron_core.checkpoint.description import DESCRIPTION
from megatron_core.config import AdapterConfig, ConvertConfig, ModelConfig, SoftPromptConfig
from megatron_core.conversion import (
    CERTIFICATE,
    HuggingFaceModel,
    MegatronModel,
    check_tokenizer,
    copy_tokenizer,
    export_gguf,
    export_megatron,
    export_model,
    import_certificate,
    is_megatron_folder,
    tensor_shapes,
)
from megatron_core.errors import ReforgeError
from megatron_core.files import write_json

# In the folder of a training of an adapter, where the whole model is that it makes.
WHOLE = "whole"

_EXPORTS = {
    "hugging_face": export_model,
    "megatron_core": export_megatron,
    "gguf": export_gguf,
}
FORMATS = ("reforge", *_EXPORTS)


@dataclass(frozen=True)
class ModelFolder:
    """A language model in a folder of any format, whose weights are read when they are asked for.

    Attributes:
        path: Of the checkpoint, or of the folder that another library reads.
        config: Architecture.
        weights: fp32 tensors by name, tied ones under their owner.
        tokenizer: Folder of the tokenizer that came with it; None where there is none.
        origin: The checkpoint's description, or the model as it came from elsewhere.
        soft_prompt: What stands before each text; None for most models.
    """

    path: Path
    config: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Path | None
    origin: Checkpoint | HuggingFaceModel | MegatronModel
    soft_prompt: SoftPromptConfig | None = None

    @classmethod
    def open(cls, path: Path, *, prompted: bool = False) -> Self:
        """Open the model in ``path``, and check that it is whole and can be mapped exactly.

        Of a folder of checkpoints, or of a run, it is the newest. No weight is read.

        Args:
            path: The folder.
            prompted: Whether a model with a soft prompt will do.

        Raises:
            ReforgeError: there is none, or one that is no language model of ours.
            IntegrityError: a file is missing, truncated or damaged.
        """
        if (path / "config.json").is_file() or is_megatron_folder(path):
            kind = MegatronModel if is_megatron_folder(path) else HuggingFaceModel
            theirs = kind.open(path)
            own = path if (path / "tokenizer.json").is_file() else None
            return cls(path, theirs.config, theirs.weights, own, theirs)
        found = _find_checkpoint(path)
        checkpoint = read_checkpoint(found)
        adapter = _adapter(checkpoint)
        soft = adapter if isinstance(adapter, SoftPromptConfig) else None
        kept = checkpoint.model.get("kind")
        if kept not in ("decoder", "encoder"):
            raise ReforgeError(f"{found} holds a model of kind {kept}: name a language model's")
        if checkpoint.step and adapter is not None:
            raise ReforgeError(
                f"{found} holds what was trained in place of a model's weights: the whole model is "
                f"in {path / WHOLE}"
            )
        if soft is not None and not prompted:
            raise ReforgeError(
                f"{found} holds a model with a soft prompt, which generates and no more: name the "
                "model that it was trained on"
            )
        config = ModelConfig.model_validate(checkpoint.model["config"])
        beside = path / "tokenizer"
        tokenizer = beside if (beside / "tokenizer.json").is_file() else None
        return cls(found, config, StoredWeights(found), tokenizer, checkpoint, soft)

    @property
    def shards(self) -> int:
        """Tensor shards that it was trained on; 1 for a model from elsewhere."""
        if not isinstance(self.origin, Checkpoint):
            return 1
        return max(placement.shards for placement in self.origin.tensors.values())

    @property
    def dtype(self) -> str:
        """What its weights are stored in: float32 where that is needed to hold them all."""
        kinds = {torch.float32} if isinstance(self.origin, Checkpoint) else self.origin.dtypes
        return str(next(iter(kinds)) if len(kinds) == 1 else torch.float32).removeprefix("torch.")

    def root(self, group: dist.ProcessGroup | None = None) -> str:
        """The root of the checkpoint, or of one that would hold the weights, which are then read.

        Args:
            group: A gloo group of ranks that ask together and share the work; None for one.
        """
        if isinstance(self.origin, Checkpoint):
            return self.origin.root
        return weights_root(self.weights, tensor_shapes(self.config), group)


def _adapter(checkpoint: Checkpoint) -> AdapterConfig | None:
    """What was trained in place of the weights."""
    found = checkpoint.model.get("adapter")
    return None if found is None else TypeAdapter(AdapterConfig).validate_python(found)


def _find_checkpoint(path: Path) -> Path:
    for folder in (path / WHOLE / "checkpoints", path, path / "checkpoints"):
        if (folder / DESCRIPTION).is_file():
            return folder
        if found := find_checkpoints(folder):
            return found[-1]
    raise ReforgeError(
        f"{path} holds no model: name a checkpoint, a folder of checkpoints, a Hugging Face folder "
        "with a config.json, or a distributed checkpoint of Megatron-Core"
    )


def write_model(
    model: ModelFolder, tokenizer: Path | None, output: Path, form: str, config: ConvertConfig
) -> dict[str, Any]:
    """Write ``model`` to the folder ``output`` in format ``form``; returns the certificate.

    Raises:
        ReforgeError: the format has no such model, the tokenizer has more entries than it, or what
            was written does not compute the same.
        IntegrityError: what was written is not bitwise the same.
    """
    if form == "reforge":
        return _import_model(model, tokenizer, output, config)
    return _EXPORTS[form](
        model.weights, model.config, tokenizer, output, config, checkpoint=model.root()
    )  # fmt: skip


def _import_model(
    model: ModelFolder, tokenizer: Path | None, output: Path, config: ConvertConfig
) -> dict[str, Any]:
    """A folder as a training leaves it: checkpoints, of which there is one, and the tokenizer."""
    if isinstance(model.origin, Checkpoint):
        raise ReforgeError(f"{model.path} is a checkpoint already: name another format")
    if tokenizer is not None:
        check_tokenizer(tokenizer, model.config)
    path = checkpoint_path(output / "checkpoints", 0)
    checkpoint = save_weights(
        path, model.weights, tensor_shapes(model.config), run="imported",
        model={"kind": model.config.kind, "config": model.config.model_dump(mode="json")},
    )  # fmt: skip
    if tokenizer is not None:
        (output / "tokenizer").mkdir()
        copy_tokenizer(tokenizer, output / "tokenizer")
    certificate = import_certificate(model.origin, StoredWeights(path), checkpoint.root, config)
    write_json(output / CERTIFICATE, certificate)
    return certificate
