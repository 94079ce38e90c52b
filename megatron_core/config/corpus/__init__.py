"""The sections from documents to tokens, a module each."""

from megatron_core.config.corpus.canaries import CanariesConfig
from megatron_core.config.corpus.curate import CurateConfig
from megatron_core.config.corpus.decontaminate import DecontaminateConfig
from megatron_core.config.corpus.dedup import DedupConfig
from megatron_core.config.corpus.ingest import IngestConfig
from megatron_core.config.corpus.tokenize import TokenizeConfig
from megatron_core.config.corpus.tokenizer import (
    ByteBpe,
    ExistingTokenizer,
    SentencePieceBpe,
    SentencePieceUnigram,
    TokenizerConfig,
    TrainedTokenizer,
    WordPiece,
)

__all__ = [
    "ByteBpe",
    "CanariesConfig",
    "CurateConfig",
    "DecontaminateConfig",
    "DedupConfig",
    "ExistingTokenizer",
    "IngestConfig",
    "SentencePieceBpe",
    "SentencePieceUnigram",
    "TokenizeConfig",
    "TokenizerConfig",
    "TrainedTokenizer",
    "WordPiece",
]
