"""The ``tokenizer`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from megatron_core.config.section import Section


class _Sampled(Section):
    """A part of the documents is enough to train on, and to report on."""

    sample_megabytes: float = Field(
        20.0, gt=0, description="Text to train on and to report on, in 10^6 bytes"
    )


class ByteBpe(_Sampled):
    """Train byte pair encoding on bytes, as GPT-2's: every text round-trips exactly."""

    kind: Literal["byte_bpe"] = "byte_bpe"
    vocabulary: int = Field(4096, ge=300, le=1_000_000, description="Entries, specials included")


class SentencePieceBpe(_Sampled):
    """Train byte pair encoding on characters by SentencePiece, as Llama 2's."""

    kind: Literal["sentencepiece_bpe"]
    vocabulary: int = Field(32_000, ge=300, le=1_000_000, description="Entries, specials included")
    character_coverage: float = Field(
        0.9995, ge=0.9, le=1, description="Share of characters with entries; others become bytes"
    )


class SentencePieceUnigram(_Sampled):
    """Train a unigram model by SentencePiece, as T5's."""

    kind: Literal["sentencepiece_unigram"]
    vocabulary: int = Field(32_000, ge=300, le=1_000_000, description="Entries, specials included")
    character_coverage: float = Field(
        0.9995, ge=0.9, le=1, description="Share of characters with entries; others become bytes"
    )


class WordPiece(_Sampled):
    """Train cased WordPiece for an encoder, as BERT's and GatorTron's."""

    kind: Literal["wordpiece"]
    vocabulary: int = Field(50_176, ge=300, le=1_000_000, description="Entries, specials included")


class ExistingTokenizer(_Sampled):
    """Take a tokenizer that exists."""

    kind: Literal["existing"]
    path: str = Field(
        description="Folder with a Hugging Face tokenizer, or a SentencePiece .model file"
    )
    end_of_document: str | None = Field(
        None, description="Token that ends documents; null takes the end of sequence or separator"
    )


def _kind(value: Any) -> Any:
    given = value.get("kind", "byte_bpe") if isinstance(value, dict) else value
    return given if isinstance(given, str) else getattr(value, "kind", None)


TrainedTokenizer = ByteBpe | SentencePieceBpe | SentencePieceUnigram | WordPiece
TokenizerConfig = Annotated[
    Annotated[ByteBpe, Tag("byte_bpe")]
    | Annotated[SentencePieceBpe, Tag("sentencepiece_bpe")]
    | Annotated[SentencePieceUnigram, Tag("sentencepiece_unigram")]
    | Annotated[WordPiece, Tag("wordpiece")]
    | Annotated[ExistingTokenizer, Tag("existing")],
    Discriminator(_kind),
]
