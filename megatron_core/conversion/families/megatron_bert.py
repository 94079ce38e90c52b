"""MegatronBert (Shoeybi et al., 2019), as GatorTron: BERT with the norms before the layers."""

from __future__ import annotations

from megatron_core.conversion.families import bert
from megatron_core.conversion.family import Family
from megatron_core.conversion.settings import Ours, Pooler
from megatron_core.conversion.tensors import rule

FAMILY = Family(
    model_type="megatron-bert",
    architecture="MegatronBertForMaskedLM",
    rules=(
        Ours({**bert.ENCODER, "norm_place": "before", "embedding_norm": False}),
        Pooler("MegatronBertForPreTraining"),
        *bert.SIZES,
    ),
    tensors=(*bert.tensors("attention.ln", "ln"), rule("final_norm", "bert.encoder.ln")),
    left_out=bert.LEFT_OUT,
    twins=bert.TWINS,
    training=bert.TRAINING,
)
