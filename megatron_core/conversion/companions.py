"""What goes along with the weights: the tokenizer, and how to generate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from megatron_core.config import ModelConfig
from megatron_core.data.tokenizer.folder import TOKENIZER, open_backend, read_config, read_roles
from megatron_core.errors import ReforgeError
from megatron_core.files import write_json

GENERATION = "generation_config.json"
_REQUIRED = (TOKENIZER, "tokenizer_config.json")
_OPTIONAL = (
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip


def check_tokenizer(tokenizer: Path, model: ModelConfig) -> None:
    """Check that every id of the tokenizer has a row in the embedding.

    Raises:
        ReforgeError: one has none, or the tokenizer cannot be read.
    """
    ids = open_backend(tokenizer).get_vocab(with_added_tokens=True).values()
    if (largest := max(ids, default=-1)) >= model.vocabulary:
        raise ReforgeError(
            f"the tokenizer in {tokenizer} has ids up to {largest}, but the model's vocabulary is "
            f"{model.vocabulary}: it is another model's"
        )


def check_same_tokenizer(ours: Path, theirs: Path) -> None:
    """Check that two tokenizers are described alike, so that every text has the same tokens.

    Raises:
        ReforgeError: they are not; it says in what they differ.
    """
    a, b = (json.loads(open_backend(folder).to_str()) for folder in (ours, theirs))
    compared = sorted((a.keys() | b.keys()) - {"padding", "truncation", "version"})
    if different := [part for part in compared if a.get(part) != b.get(part)]:
        raise ReforgeError(
            f"the tokenizer in {ours} is not the model's in {theirs}, they differ in "
            f"{', '.join(different)}: take that one with `tokenizer: {{kind: existing, path: "
            f"{theirs}}}`"
        )


def copy_tokenizer(tokenizer: Path, output: Path) -> None:
    """Copy the tokenizer's files, and how to generate if that is said beside them.

    Raises:
        ReforgeError: a file that every tokenizer has cannot be read.
    """
    for name in (*_REQUIRED, *_OPTIONAL, GENERATION):
        try:
            shutil.copyfile(tokenizer / name, output / name)
        except FileNotFoundError as error:
            if name in _REQUIRED:
                raise ReforgeError(
                    f"{tokenizer / name} does not exist: run `reforge tokenizer`, or name the "
                    "folder of the model's tokenizer"
                ) from error
        except OSError as error:
            raise ReforgeError(f"{tokenizer / name} cannot be read: {error.strerror}") from error


def special_ids(tokenizer: Path) -> dict[str, int]:
    """The ids of the tokens that begin, end and pad a text, as ``config.json`` names them."""
    ids = open_backend(tokenizer).get_vocab(with_added_tokens=True)
    roles = read_roles(read_config(tokenizer))
    return {
        f"{role}_token_id": ids[roles[role]]
        for role in ("bos", "eos", "pad")
        if roles.get(role) in ids
    }


def write_generation(output: Path, ids: Mapping[str, int]) -> None:
    """Write ``generation_config.json`` where the folder has none: the likeliest token each time."""
    if not (output / GENERATION).exists():
        write_json(output / GENERATION, {"do_sample": False, **ids})
