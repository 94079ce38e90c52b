"""Tokenizers to encode with, and texts that encoders get wrong."""

from __future__ import annotations

import random
from pathlib import Path

from megatron_core.config import (
    ByteBpe,
    SentencePieceBpe,
    SentencePieceUnigram,
    TokenizerConfig,
    WordPiece,
)
from megatron_core.data.documents import Document, write_shard
from megatron_core.data.tokenizer import make_tokenizer

KINDS: dict[str, TokenizerConfig] = {
    "byte_bpe": ByteBpe(vocabulary=400, sample_megabytes=1),
    "sentencepiece_bpe": SentencePieceBpe(
        kind="sentencepiece_bpe", vocabulary=400, sample_megabytes=1
    ),
    "sentencepiece_unigram": SentencePieceUnigram(
        kind="sentencepiece_unigram", vocabulary=400, sample_megabytes=1
    ),
    "wordpiece": WordPiece(kind="wordpiece", vocabulary=400, sample_megabytes=1),
}

HARD = [
    "",
    " ",
    "  two  spaces\r\n\ttab ",
    " " * 5000 + "x" + " " * 33,
    "0123456789" * 300,
    "Ünïcödé e\u0301 ﬁ Å",
    "漢字かな交じり文",
    "שלום עולם مرحبا بالعالم",
    "🧬\u200d👩‍🔬 🏳️‍🌈🏳️‍🌈",
    "\x00a\x00\x00\x7f\x1c\x85\u2028\ufeff",
    "a <|endoftext|> b</s><s> <unk> [PAD][UNK] [MASK]<|endoftext|>",
    "<0x0A> <0xFF>",
    "I'll he'd THEY'RE 'S''s ' s",
    "a" * 777 + " " + "ab" * 500,
]


def corpus(number: int = 300) -> list[Document]:
    """Sentences of made-up words, in two sources."""
    generator = random.Random(1)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(2, 7))) for _ in range(600)]
    return [
        Document(("notes", "papers")[i % 2], i // 2, " ".join(generator.choices(words, k=30)))
        for i in range(number)
    ]


def write_corpus(folder: Path, documents: list[Document], shards: int) -> Path:
    """``documents`` in shards of ``folder``; returns it."""
    for shard in range(shards):
        write_shard(folder / f"{shard:05d}.jsonl", documents[shard::shards])
    return folder


def made(root: Path, config: TokenizerConfig) -> Path:
    """A tokenizer of the corpus below ``root``; returns its folder."""
    (root / "out").mkdir(parents=True)
    make_tokenizer(write_corpus(root / "train", corpus(), 3), root / "out", config)
    return root / "out"


def fuzz(number: int, seed: int = 1) -> list[str]:
    """Short texts of what stands at borders: spaces, digits, marks, emoji, control characters."""
    generator = random.Random(seed)
    pieces = ["a", "ab", "The", "'ll", " ", "  ", "\n", "\r\n", "\t", "1", "007", ".", "--", "é",
              "e\u0301", "漢", "🧬", "\u200d", "ש", "\u00a0", "\x00", "_", "##", "<s>"]  # fmt: skip
    return ["".join(generator.choices(pieces, k=generator.randint(1, 40))) for _ in range(number)]
