"""Scores and continuations of a decoder, with what earlier tokens gave kept."""

from megatron_core.inference.decoder import Decoder
from megatron_core.inference.generation import Continuation, Generator
from megatron_core.inference.loading import StoredModel, open_tokenizer, special_tokens
from megatron_core.inference.sequences import Cache

__all__ = [
    "Cache",
    "Continuation",
    "Decoder",
    "Generator",
    "StoredModel",
    "open_tokenizer",
    "special_tokens",
]
