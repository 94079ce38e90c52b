"""What a language model reads and is to predict of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section
from megatron_core.config.training import TrainingConfig


class MaskingConfig(Section):
    """Masked-language-model inputs (Devlin et al., 2019)."""

    rate: float = Field(0.15, gt=0, lt=1, description="Share of tokens to predict")
    masked: float = Field(0.8, ge=0, le=1, description="Of these, replaced by the mask token")
    random: float = Field(0.1, ge=0, le=1, description="Of these, replaced by a random token")
    token: int | None = Field(
        None, ge=0, description="Id of the mask token; null takes the tokenizer's"
    )
    whole_words: bool = Field(False, description="Predict words whole (Cui et al., 2019)")
    framed: bool = Field(
        False, description="Begin sequences with the tokenizer's [CLS] and end them with its [SEP]"
    )
    pairs: Literal["none", "sentence_order", "next_sentence"] = Field(
        "none",
        description="Sequences are two segments of a document: tell whether they were swapped "
        "(Lan et al., 2020), or whether the second is from elsewhere (Devlin et al., 2019)",
    )


class PredictionConfig(TrainingConfig):
    """Training on the tokenized sources: the next token, or masked ones."""

    sources: dict[str, float] = Field(
        default_factory=dict,
        description="Passes over each source per epoch of the mixture; empty takes all once",
    )
    packing: Literal["concatenate", "best_fit"] = Field(
        "concatenate",
        description="Documents end to end, cut at a sequence's end; or whole, where they fit best",
    )
    reset_at_documents: bool = Field(
        False,
        description="Documents in a sequence do not see one another, and positions restart",
    )
    order: Literal["permuted", "megatron"] = Field(
        "permuted",
        description="A permutation that no length of training changes; or Megatron-LM's own order, "
        "where `sources` are shares of the samples",
    )
    masking: MaskingConfig = Field(
        default_factory=MaskingConfig, description="Used by an encoder alone"
    )
