"""Write a model as a Hugging Face folder, and prove that it is the same model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion.certificate import CERTIFICATE, compare_tensors
from megatron_core.conversion.companions import (
    check_tokenizer,
    copy_tokenizer,
    special_ids,
    write_generation,
)
from megatron_core.conversion.families import FAMILIES
from megatron_core.conversion.family import Family, computed
from megatron_core.conversion.folder import CONFIG, HuggingFaceModel
from megatron_core.conversion.parity import check_logits
from megatron_core.conversion.tensor_files import write_tensor_files
from megatron_core.conversion.tensors import check_names
from megatron_core.errors import ReforgeError
from megatron_core.files import write_json


def export_model(
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    tokenizer: Path | None,
    output: Path,
    config: ConvertConfig,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Write ``weights`` as a folder that transformers loads offline.

    Tensors are read, written and compared one at a time. The folder's bytes depend on the
    arguments alone. Beside the model it holds ``certificate.json``: each tensor's hash on both
    sides in the stored dtype, the map between them, and the largest difference between our
    logits and those of transformers, both in fp32 from the stored weights.

    Args:
        weights: fp32 tensors by parameter name, tied ones under their owner; may be lazy.
        model: Architecture of the weights.
        tokenizer: Hugging Face tokenizer folder, whose files go along; None for none.
        output: Folder to create or fill.
        config: Dtype and size of the files, largest logit difference.
        checkpoint: Root of the checkpoint the weights come from.

    Returns:
        The certificate.

    Raises:
        ReforgeError: no family has such a model, the tokenizer has more entries than it, a tensor
            has no counterpart or another shape, the stored tensors are not the given ones, or the
            logits differ by more than the configuration allows.
    """
    family = find_family(model)
    links = family.links(model)
    check_names(weights, links)
    if tokenizer is not None:
        check_tokenizer(tokenizer, model)
    dtype = cast(torch.dtype, getattr(torch, config.dtype))
    output.mkdir(parents=True, exist_ok=True)
    _write_companions(family, model, tokenizer, config.dtype, output)
    by_name = {link.theirs: link for link in links}
    write_tensor_files(
        output,
        {link.theirs: link.shape for link in links},
        lambda name: by_name[name].join(weights, dtype),
        dtype,
        config.shard_bytes,
    )
    read = HuggingFaceModel.open(output)
    if computed(read.config) != computed(model):
        raise ReforgeError(f"{output / CONFIG} reads back as another architecture: {read.config}")
    tensors = compare_tensors(links, weights, read.files)
    difference = None  # not compared
    if config.compare_logits:
        difference = check_logits(read.weights, read.config, output, config)
    certificate = {
        "bytes": read.files.size,
        "checkpoint": checkpoint,
        "dtype": config.dtype,
        "family": family.model_type,
        "format": "hugging_face",
        "max_logit_difference": difference,
        "parameters": sum(tensor.numel for tensor in read.files.stored.values()),
        "round_trip": "bitwise",
        "tensors": tensors,
    }
    write_json(output / CERTIFICATE, certificate)
    return certificate


def find_family(model: ModelConfig) -> Family:
    """The family that ``model`` belongs to.

    Raises:
        ReforgeError: no family has such a model; it says in what the nearest one differs.
    """
    differences = {family.model_type: family.differences(model) for family in FAMILIES}
    for family in FAMILIES:
        if not differences[family.model_type]:
            return family
    nearest = min(differences.values(), key=len)
    raise ReforgeError(
        "no family of Hugging Face has this model; in the one that is nearest\n  "
        + "\n  ".join(nearest)
    )


def _write_companions(
    family: Family, model: ModelConfig, tokenizer: Path | None, dtype: str, output: Path
) -> None:
    """The tokenizer's files, and settings that name no version of a library."""
    ids: dict[str, int] = {}
    none = {"bos_token_id": None, "eos_token_id": None}
    if tokenizer is not None:
        copy_tokenizer(tokenizer, output)
        ids = special_ids(tokenizer)
    if model.kind == "decoder":
        write_generation(output, ids)
    # A padding id in the model's own settings would freeze that row of the embedding when it is
    # trained further; here padding is the end of a document, which is a token to learn.
    settings = {**family.write(model), **none, **ids, "pad_token_id": None, "dtype": dtype}
    write_json(output / CONFIG, {**settings, "use_cache": model.kind == "decoder"})
