"""Tokenizers: trained or taken over, kept as Hugging Face folders; and what encodes with them."""

from megatron_core.data.tokenizer.encoders import Encoder, Pieces
from megatron_core.data.tokenizer.existing import verify_unchanged
from megatron_core.data.tokenizer.fast import choose_encoder, open_encoder
from megatron_core.data.tokenizer.make import make_tokenizer
from megatron_core.data.tokenizer.report import describe
from megatron_core.data.tokenizer.sample import draw_sample
from megatron_core.data.tokenizer.tokenizer import Tokenizer

__all__ = [
    "Encoder",
    "Pieces",
    "Tokenizer",
    "choose_encoder",
    "describe",
    "draw_sample",
    "make_tokenizer",
    "open_encoder",
    "verify_unchanged",
]
