"""What training has to know of a vocabulary: its special tokens, and which tokens begin words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_core.data.tokenizer.folder import (
    TOKENIZER,
    open_backend,
    read_config,
    read_roles,
    read_text,
)
from megatron_core.errors import CorpusError
from megatron_core.files import write_json

_FILE = "vocabulary.json"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        size: How many, special ones included.
        special: Their ids by role: ``cls``, ``sep``, ``mask``, ``pad``, ``bos``, ``eos``, ``unk``.
        begins_word: bool ``[size]``, whether a token begins a word.
    """

    size: int
    special: Mapping[str, int]
    begins_word: NDArray[np.bool_]

    def require(self, role: str) -> int:
        """The id of the special token with ``role``.

        Raises:
            CorpusError: there is none.
        """
        if role not in self.special:
            raise CorpusError(
                f"the tokenizer has no {role}_token, which masked-language modelling as the recipe "
                f"has it needs: it has {', '.join(sorted(self.special)) or 'none at all'}. Train "
                "one with it, or change pretrain.masking"
            )
        return self.special[role]

    def write(self, folder: Path) -> None:
        """Write ``vocabulary.json`` into ``folder``."""
        write_json(
            folder / _FILE,
            {
                "size": self.size,
                "special": dict(self.special),
                "begins_word": np.packbits(self.begins_word).tobytes().hex(),  # a bit for each
            },
        )

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """Read ``vocabulary.json`` from ``folder``.

        Raises:
            CorpusError: it is missing or unreadable.
        """
        path = folder / _FILE
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            bits = np.frombuffer(bytes.fromhex(stored["begins_word"]), dtype=np.uint8)
            begins = np.unpackbits(bits, count=stored["size"]).astype(bool)
            return cls(stored["size"], stored["special"], begins)
        except FileNotFoundError as error:
            raise CorpusError(f"{path} does not exist: run `reforge tokenize` again") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is unreadable: run `reforge tokenize` again") from error

    @classmethod
    def of_tokenizer(cls, folder: Path) -> Vocabulary:
        """The vocabulary of a Hugging Face tokenizer folder.

        A token begins a word unless WordPiece marks it as a continuation (``##``), or the
        vocabulary marks words by the space before them and it has none: ``▁`` of SentencePiece,
        ``Ġ`` of byte-level BPE, where other white space counts as well. Special tokens are words.

        Raises:
            CorpusError: the folder holds no readable tokenizer.
        """
        backend = open_backend(folder)
        ids = backend.get_vocab(with_added_tokens=True)
        roles = read_roles(read_config(folder))
        special = {role: ids[token] for role, token in roles.items() if token in ids}
        added = backend.get_added_tokens_decoder()
        controls = {*special.values(), *(n for n, token in added.items() if token.special)}
        model = json.loads(read_text(folder / TOKENIZER))["model"]
        begins = np.zeros(max(len(ids), max(ids.values()) + 1), dtype=bool)
        for token, number in ids.items():
            begins[number] = number in controls or _begins_word(token, model, ids)
        return cls(len(begins), special, begins)


def _begins_word(token: str, model: Mapping[str, Any], ids: Mapping[str, int]) -> bool:
    if model["type"] == "WordPiece":
        return not token.startswith(model["continuing_subword_prefix"])
    # The bytes of space, line feed, tabulator and carriage return in the byte-level alphabet.
    spaces = ("Ġ", "Ċ", "ĉ", "č") if "Ġ" in ids else ("▁",)
    return token.startswith(spaces)
