"""Train a byte-level BPE tokenizer, and use one that is stored as a Hugging Face folder."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_core.config import ByteBpe
from megatron_core.data.documents import Document, read_shards
from megatron_core.errors import CorpusError
from megatron_core.files import write_json, write_text
from megatron_core.progress import track

END_OF_DOCUMENT = "<|endoftext|>"


class Tokenizer:
    """Text to token ids and back, without added tokens.

    A control token that is spelled out in a text is text: it is encoded as ordinary bytes.
    """

    def __init__(self, backend: Backend, end_of_document: int) -> None:
        backend.encode_special_tokens = True  # Not stored in tokenizer.json, so set on each load.
        self._backend = backend
        self.end_of_document = end_of_document
        self.vocabulary_size: int = backend.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Open a Hugging Face tokenizer folder; its end-of-sequence token ends documents.

        Raises:
            CorpusError: a file is missing or unreadable, or there is no such token.
        """
        advice = "run `reforge tokenizer` again"
        config = folder / "tokenizer_config.json"
        try:
            backend = Backend.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            end = json.loads(config.read_text(encoding="utf-8"))["eos_token"]
        except FileNotFoundError as error:
            raise CorpusError(f"{error.filename} does not exist: {advice}") from error
        except KeyError as error:
            raise CorpusError(f"{config} names no eos_token: {advice}") from error
        except Exception as error:  # The tokenizers library raises bare Exception.
            raise CorpusError(f"{folder} is no readable tokenizer ({error}): {advice}") from error
        end = end["content"] if isinstance(end, dict) else end
        if (number := backend.token_to_id(end)) is None:
            raise CorpusError(f"{folder}/tokenizer.json has no token {end!r}: {advice}")
        return cls(backend, number)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores unless ``TOKENIZERS_PARALLELISM=false``."""
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [list(one.ids) for one in encoded]

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


def train_tokenizer(documents: Path, output: Path, config: ByteBpe) -> dict[str, Any]:
    """Train on shards in ``documents`` and write a Hugging Face folder with ``report.json``.

    The algorithm is byte pair encoding (Sennrich et al., "Neural Machine Translation of Rare
    Words with Subword Units", 2016) on bytes, with the word splitting of GPT-2. The result does
    not depend on the order of shards or the number of threads.

    Returns:
        The report: what was trained on, round trips, tokens per word and bytes per token.

    Raises:
        CorpusError: there is no text, or too little for the vocabulary.
    """
    sample = draw_sample(read_shards(documents), int(config.sample_megabytes * 1e6))
    if not sample:
        raise CorpusError(f"{documents} holds no text to train a tokenizer on")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        min_frequency=2,  # A pair seen once is no evidence of a unit.
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (document.text for document in sample)
    backend.train_from_iterator(
        track(texts, "reading the tokenizer's sample", total=len(sample)), trainer
    )
    if (size := backend.get_vocab_size(with_added_tokens=True)) != config.vocabulary:
        raise CorpusError(
            f"the text in {documents} yields {size} tokens, not {config.vocabulary}: lower "
            f"tokenizer.vocabulary to {size} or less (and pretrain.model.vocabulary with it), "
            "or give more text"
        )
    _write_folder(backend, output)
    report = describe(Tokenizer.load(output), sample)
    write_json(output / "report.json", report)
    return report


def draw_sample(documents: Iterable[Document], size: int) -> list[Document]:
    """The documents of the smallest hashes of ids that together reach ``size`` bytes.

    Which they are, and in what order, does not depend on the order of ``documents``; no more
    than about ``size`` bytes are held in memory.
    """
    # A heap with the largest hash on top: it leaves when the others are enough.
    heap: list[tuple[int, str, Document]] = []  # no two documents have one id
    total = 0
    for document in track(documents, "sampling documents"):
        if not document.text:
            continue
        digest = hashlib.sha256(document.id.encode()).digest()
        heapq.heappush(heap, (-int.from_bytes(digest), document.id, document))
        total += _size(document)
        while total - _size(heap[0][2]) >= size:
            total -= _size(heapq.heappop(heap)[2])
    return [document for _, _, document in sorted(heap, key=lambda entry: (-entry[0], entry[1]))]


def describe(tokenizer: Tokenizer, sample: Sequence[Document]) -> dict[str, Any]:
    """How ``tokenizer`` fares on ``sample``, in all and per source."""
    counts: defaultdict[str, dict[str, int]] = defaultdict(
        lambda: {"documents": 0, "exact_round_trips": 0, "words": 0, "bytes": 0, "tokens": 0}
    )
    documents = track(sample, "checking round trips", total=len(sample))
    for document, ids in tokenizer.encode_documents(documents):
        count = counts[document.source]
        count["documents"] += 1
        count["exact_round_trips"] += tokenizer.decode(ids) == document.text
        count["words"] += len(document.text.split())
        count["bytes"] += _size(document)
        count["tokens"] += len(ids)
    totals = {
        name: sum(count[name] for count in counts.values()) for name in next(iter(counts.values()))
    }
    return {
        "vocabulary": tokenizer.vocabulary_size,
        "special_tokens": {END_OF_DOCUMENT: tokenizer.end_of_document},
        "sample": _with_ratios(totals),
        "sources": {source: _with_ratios(counts[source]) for source in sorted(counts)},
    }


def _with_ratios(count: dict[str, int]) -> dict[str, float]:
    return count | {
        "tokens_per_word": round(count["tokens"] / max(count["words"], 1), 4),
        "bytes_per_token": round(count["bytes"] / max(count["tokens"], 1), 4),
    }


def _size(document: Document) -> int:
    return len(document.text.encode())


def _write_folder(backend: Backend, output: Path) -> None:
    write_text(output / "tokenizer.json", backend.to_str(pretty=True) + "\n")
    write_json(
        output / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_DOCUMENT,
            "eos_token": END_OF_DOCUMENT,
            "pad_token": END_OF_DOCUMENT,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # A control token spelled out in a text is text.
        },
    )
