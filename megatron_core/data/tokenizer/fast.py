"""gigatoken, which encodes byte pair encoding many times faster, and who encodes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import orjson
import psutil
from numpy.typing import NDArray

from megatron_core.data.tokenizer.encoders import Encoder
from megatron_core.data.tokenizer.tokenizer import Tokenizer
from megatron_core.errors import CorpusError, MissingExtraError

_CACHE = 256_000_000  # bytes the cache of words may take until it is thrown away
_PROBES = (
    *(
        "",
        " ",
        " a ",
        "  a",
        "\n a",
        "\u2581a",
        "a  b   c    d",
        " " * 300,
        "x" * 3000,
        "1234567890" * 30,
        "\x00a\x00\x7f",
    ),
    *("It's 'S we'LL\n\n\tdon't\r\n", "Ünïcödé e\u0301 ﬁ Å", "漢字かな交じり文"),
    *("שלום עולם مرحبا بالعالم", "🧬👩\u200d🔬🏳️\u200d🌈", "\u2581a\u2581", "<0x0A>"),
    *("<s></s><unk><pad> <|endoftext|> [MASK]", "f(x)=[1,2]; // ##x --- ==="),
)


class GigatokenEncoder:
    """The gigatoken library, on one thread.

    It keeps every word it has seen. When that takes too much memory the encoder starts anew.

    Raises:
        Exception: gigatoken does not know this kind of tokenizer.
    """

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = _without_special_tokens(tokenizer)
        self._process = psutil.Process()
        self._start()

    def _start(self) -> None:
        from gigatoken.gigatoken_rs import load_hf_json

        self._backend: Any = None  # the old one goes first
        self._memory = self._process.memory_info().rss
        self._backend = load_hf_json(self._tokenizer)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """As :class:`Encoder` says."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        if self._process.memory_info().rss > self._memory + _CACHE:
            self._start()
        layout = self._backend.encode_batch(list(texts), parallel=False).layout
        offsets = np.asarray(layout.offsets.data)
        return np.asarray(layout.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)


def choose_encoder(tokenizer: Tokenizer, wanted: str) -> tuple[str, str]:
    """The name of an encoder for :func:`open_encoder`, and why it.

    Args:
        wanted: ``reference``, ``gigatoken``, or ``auto``: gigatoken where it is exact.

    Raises:
        MissingExtraError: gigatoken is wanted and not installed.
        CorpusError: gigatoken is wanted and not exact for this tokenizer.
    """
    reference = tokenizer.reference.name
    if wanted == "reference":
        return reference, "the recipe asks for the reference"
    if find_spec("gigatoken") is None:
        if wanted == "auto":
            return reference, "gigatoken is not installed (pip install 'reforge-llm[fast]')"
        raise MissingExtraError("gigatoken", "fast")
    if (problem := _gigatoken_problem(tokenizer)) is None:
        return GigatokenEncoder.name, f"exact, and faster than {reference}"
    if wanted == "auto":
        return reference, f"gigatoken {problem}"
    raise CorpusError(f"gigatoken {problem}: set tokenize.encoder to reference")


def open_encoder(tokenizer: Tokenizer, name: str) -> Encoder:
    """The encoder that :func:`choose_encoder` chose."""
    return GigatokenEncoder(tokenizer) if name == GigatokenEncoder.name else tokenizer.reference


def _gigatoken_problem(tokenizer: Tokenizer) -> str | None:
    """Why gigatoken cannot be used, if so."""
    try:
        encoder = GigatokenEncoder(tokenizer)
    except Exception as error:  # The library's errors have no class of their own.
        return f"does not know this tokenizer ({str(error).splitlines()[0]})"
    probes = [*_PROBES, *(f"a {token} b{token}" for token in tokenizer.added_tokens[:1000])]
    ids, lengths = encoder.encode(probes)
    expected, counts = tokenizer.reference.encode(probes)
    if not (np.array_equal(ids, expected) and np.array_equal(lengths, counts)):
        return "is not exact for this tokenizer"
    return None


def _without_special_tokens(tokenizer: Tokenizer) -> bytes:
    """``tokenizer.json`` in which, unless they are parsed, special tokens are no words."""
    content = orjson.loads(tokenizer.content)
    if not tokenizer.parses_special_tokens:
        content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
    return orjson.dumps(content)
