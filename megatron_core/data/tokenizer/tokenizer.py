"""A tokenizer as the other stages use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from megatron_core.data.documents import Document
from megatron_core.data.tokenizer.encoders import (
    Encoder,
    HuggingFaceEncoder,
    Pieces,
    Reference,
    SentencePieceEncoder,
)
from megatron_core.data.tokenizer.folder import (
    ADVICE,
    CONFIG,
    MODEL,
    TOKENIZER,
    open_backend,
    read_config,
    read_roles,
    read_text,
)
from megatron_core.errors import CorpusError


class Tokenizer:
    """Text to token ids and back, without added tokens.

    A control token that is spelled out in a text is text, unless ``parse_special_tokens``. Where
    SentencePiece made the vocabulary, its library encodes.

    Attributes:
        content: ``tokenizer.json``.
        reference: What encodes.
        vocabulary_size: Entries, special tokens included; every id is below it.
        added_tokens: Those that are found in a text before any other, special or not.
        special_tokens: Their ids.
        end_of_document: Id that ends documents: of the end of a sequence, else the separator.
        unknown_token, class_token, separator_token, padding_token, mask_token: Ids, None where
            the tokenizer has no such token.
    """

    def __init__(
        self,
        content: str,
        backend: Backend,
        roles: Mapping[str, str],
        end_of_document: int,
        *,
        processor: Any = None,
        parse_special_tokens: bool = False,
    ) -> None:
        # Not stored in tokenizer.json, so set on each load; these two may be, for other uses.
        backend.encode_special_tokens = not parse_special_tokens
        backend.no_truncation()
        backend.no_padding()
        self.content = content
        self._backend = backend
        self.parses_special_tokens = parse_special_tokens
        self.reference: Reference = HuggingFaceEncoder(backend)
        if processor is not None and not parse_special_tokens:
            self.reference = SentencePieceEncoder(processor)
        self.vocabulary_size: int = backend.get_vocab_size(with_added_tokens=True)
        if backend.id_to_token(self.vocabulary_size - 1) is None:  # Some numbers are left out.
            self.vocabulary_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        added = backend.get_added_tokens_decoder()
        self.added_tokens = [str(token.content) for _, token in sorted(added.items())]
        self.special_tokens = {
            str(token.content): int(number)
            for number, token in sorted(added.items())
            if token.special
        }
        ids = {role: backend.token_to_id(token) for role, token in roles.items()}
        self.unknown_token = ids.get("unk")
        self.class_token = ids.get("cls")
        self.separator_token = ids.get("sep")
        self.padding_token = ids.get("pad")
        self.mask_token = ids.get("mask")
        self.end_of_document = end_of_document

    @classmethod
    def load(cls, folder: Path, *, parse_special_tokens: bool = False) -> Tokenizer:
        """Open a Hugging Face tokenizer folder; its end-of-sequence token ends documents.

        Raises:
            CorpusError: a file is missing or unreadable, or there is no such token.
        """
        backend = open_backend(folder)
        roles = read_roles(read_config(folder))
        if (end := roles.get("eos") or roles.get("sep")) is None:
            raise CorpusError(f"{folder / CONFIG} names no eos_token and no sep_token: {ADVICE}")
        if (number := backend.token_to_id(end)) is None:
            raise CorpusError(f"{folder / TOKENIZER} has no token {end!r}: {ADVICE}")
        processor = open_processor(folder / MODEL) if (folder / MODEL).is_file() else None
        return cls(
            read_text(folder / TOKENIZER), backend, roles, number,
            processor=processor, parse_special_tokens=parse_special_tokens,
        )  # fmt: skip

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        return _lists(self.reference, texts)

    def encode_with_places(self, texts: Sequence[str]) -> list[Pieces]:
        """The ids of each text with the characters that each stands for."""
        return self.reference.encode_with_places(texts) if texts else []

    @property
    def adds_space(self) -> bool:
        """Whether a text is encoded as if a space came before it."""
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        text = normalizer.normalize_str("a") if normalizer else "a"
        split = splitter.pre_tokenize_str(text) if splitter else [(text, (0, 1))]
        return bool(split) and str(split[0][0]) != "a"

    def encode_in_transformers(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that a reader of ``tokenizer.json`` gives, whatever the reference is."""
        return _lists(HuggingFaceEncoder(self._backend), texts)

    def encode_documents(
        self, documents: Iterable[Document]
    ) -> Iterator[tuple[Document, list[int]]]:
        """Each document with the ids of its text, a batch at a time."""
        waiting = iter(documents)
        while batch := list(islice(waiting, 256)):
            yield from zip(
                batch, self.encode_batch([document.text for document in batch]), strict=True
            )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, control tokens included."""
        return str(self._backend.decode(ids, skip_special_tokens=False))


def _lists(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    ids, lengths = encoder.encode(texts)
    return [one.tolist() for one in np.split(ids, np.cumsum(lengths)[:-1])] if texts else []


def open_processor(model: Path) -> Any:
    """The SentencePiece model in file ``model``.

    Raises:
        CorpusError: it is unreadable.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=model.read_bytes())
    except (OSError, RuntimeError) as error:
        raise CorpusError(f"{model} is no readable SentencePiece model ({error})") from error
