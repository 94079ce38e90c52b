"""A model that exists, to be trained on."""

from __future__ import annotations

from pathlib import Path

from megatron_core.config import ModelConfig
from megatron_core.conversion import check_same_tokenizer, check_tokenizer, computed
from megatron_core.errors import ConfigError
from megatron_core.exchange import ModelFolder


def open_start(folder: Path, model: ModelConfig, tokenizer: Path | None) -> ModelFolder:
    """The model in ``folder``, to begin a training of ``model`` with. No weight is read.

    What shapes training alone, such as dropout and the losses of a router, is the recipe's.

    Args:
        folder: One of ours, or of another library.
        model: What the recipe says that it is.
        tokenizer: What made the tokens; it must be the model's, where the folder has one.

    Raises:
        ConfigError: it is another model than the recipe's; each setting by name.
        ReforgeError: it cannot be mapped exactly, or has another tokenizer.
        IntegrityError: a file is missing, truncated or damaged.
    """
    found = ModelFolder.open(folder)
    ours, theirs = computed(model), computed(found.config)
    if wrong := [name for name in ours if ours[name] != theirs[name]]:
        raise ConfigError(
            f"pretrain.start = {folder} holds another model than the recipe:\n"
            + "\n".join(f"  pretrain.model.{n} = {ours[n]!r}: must be {theirs[n]!r}" for n in wrong)
        )
    if tokenizer is not None:
        check_tokenizer(tokenizer, model)
        if found.tokenizer is not None:
            check_same_tokenizer(tokenizer, found.tokenizer)
    return found
