"""How a tokenizer fares on a sample of the documents."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from megatron_core.data.documents import Document
from megatron_core.data.tokenizer.encoders import HuggingFaceEncoder
from megatron_core.data.tokenizer.sample import text_bytes
from megatron_core.data.tokenizer.tokenizer import Tokenizer
from megatron_core.progress import track

_COMPARED = 1_000_000  # characters of the sample
_COUNTS = ("documents", "exact_round_trips", "words", "bytes", "tokens", "unknown_tokens")


def describe(tokenizer: Tokenizer, sample: Sequence[Document]) -> dict[str, Any]:
    """Vocabulary, special tokens and counts on ``sample``, in all and per source.

    ``tokens_per_word`` is the fertility, over words between white space; ``unknown_share`` the
    share of tokens that stand for what the vocabulary lacks. ``transformers`` says for how many
    documents of the sample's first million characters ``tokenizer.json`` gives the same ids.
    """
    counts: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
    documents = track(sample, "checking round trips", total=len(sample))
    for document, ids in tokenizer.encode_documents(documents):
        count = counts[document.source]
        count["documents"] += 1
        count["exact_round_trips"] += tokenizer.decode(ids) == document.text
        count["words"] += len(document.text.split())
        count["bytes"] += text_bytes(document)
        count["tokens"] += len(ids)
        if tokenizer.unknown_token is not None:
            count["unknown_tokens"] += ids.count(tokenizer.unknown_token)
    totals = {name: sum(count[name] for count in counts.values()) for name in _COUNTS}
    return {
        "vocabulary": tokenizer.vocabulary_size,
        "special_tokens": tokenizer.special_tokens,
        "end_of_document": tokenizer.end_of_document,
        "transformers": _in_transformers(tokenizer, sample),
        "sample": _with_ratios(totals),
        "sources": {source: _with_ratios(counts[source]) for source in sorted(counts)},
    }


def _in_transformers(tokenizer: Tokenizer, sample: Sequence[Document]) -> dict[str, int]:
    """For how many of the first documents ``tokenizer.json`` gives the same ids."""
    ends = list(accumulate(len(document.text) for document in sample))
    texts = [document.text for document in sample[: bisect_right(ends, _COMPARED) + 1]]
    if tokenizer.reference.name == HuggingFaceEncoder.name:
        return {"documents": len(texts), "identical": len(texts)}
    ours, theirs = tokenizer.encode_batch(texts), tokenizer.encode_in_transformers(texts)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {"documents": len(texts), "identical": same}


def _with_ratios(count: dict[str, int]) -> dict[str, float]:
    return count | {
        "tokens_per_word": round(count["tokens"] / max(count["words"], 1), 4),
        "bytes_per_token": round(count["bytes"] / max(count["tokens"], 1), 4),
        "unknown_share": round(count["unknown_tokens"] / max(count["tokens"], 1), 6),
    }
