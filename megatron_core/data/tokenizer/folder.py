"""The files of a tokenizer: a Hugging Face folder, and SentencePiece's model where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as Backend

from megatron_core.errors import CorpusError
from megatron_core.files import write_json, write_text

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
MODEL = "tokenizer.model"
VOCABULARY = "vocab.txt"  # WordPiece's, a token a line, as Megatron-LM and BERT read it
ADVICE = "run `reforge tokenizer` again"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def write_folder(backend: Backend, output: Path, roles: Mapping[str, str]) -> None:
    """Write a folder that ``AutoTokenizer`` opens; ``roles`` names special tokens by role."""
    write_text(output / TOKENIZER, backend.to_str(pretty=True) + "\n")
    write_json(
        output / CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": token for role, token in roles.items()},
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # A control token spelled out in a text is text.
        },
    )


def check_size(found: int, vocabulary: int) -> None:
    """Whether the training found as many tokens as the recipe asks for.

    Raises:
        CorpusError: it did not.
    """
    if found != vocabulary:
        raise CorpusError(
            f"the sampled text yields {found} tokens, not {vocabulary}: lower "
            f"tokenizer.vocabulary to {found} or less (and pretrain.model.vocabulary with it), "
            "or give more text"
        )


def open_backend(folder: Path) -> Backend:
    """The tokenizer of the tokenizers library in ``folder``.

    Raises:
        CorpusError: it is missing or unreadable.
    """
    content = read_text(folder / TOKENIZER)
    try:
        return Backend.from_str(content)
    except Exception as error:  # The tokenizers library raises bare Exception.
        raise CorpusError(f"{folder} is no readable tokenizer ({error}): {ADVICE}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``.

    Raises:
        CorpusError: it is missing or unreadable.
    """
    try:
        config = json.loads(read_text(folder / CONFIG))
    except ValueError as error:
        raise CorpusError(f"{folder} is no readable tokenizer ({error}): {ADVICE}") from error
    if not isinstance(config, dict):
        raise CorpusError(f"{folder} is no readable tokenizer: {CONFIG} is no object: {ADVICE}")
    return config


def read_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a ``tokenizer_config.json`` names, by role."""
    named = {role: config.get(f"{role}_token") for role in ROLES}
    texts = {
        r: token["content"] if isinstance(token, dict) else token for r, token in named.items()
    }
    return {role: cast(str, text) for role, text in texts.items() if text}


def read_text(path: Path) -> str:
    """The content of ``path``.

    Raises:
        CorpusError: it is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist: {ADVICE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): {ADVICE}") from error
