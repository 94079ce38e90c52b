"""Write a decoder as a Hugging Face folder, prove that it is the same model, and read one back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion.llama import from_llama, tensor_names, tensor_shapes, to_llama
from megatron_core.errors import ReforgeError
from megatron_core.files import write_json
from megatron_core.identity import hash_bytes
from megatron_core.model import LanguageModel, load_parameters

CERTIFICATE = "certificate.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def export_decoder(
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    tokenizer: Path,
    output: Path,
    config: ConvertConfig,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Write ``weights`` as a ``LlamaForCausalLM`` folder that transformers loads offline.

    The folder's bytes depend on the arguments alone. Beside the model it holds
    ``certificate.json``: each tensor's hash on both sides in the stored dtype, and the largest
    difference between our logits and those of transformers, both in fp32 from the stored weights.

    Args:
        weights: fp32 tensors by parameter name, tied ones under their owner.
        model: Architecture of the weights.
        tokenizer: Hugging Face tokenizer folder.
        output: Folder to create or fill.
        config: Dtype of the stored weights, largest logit difference.
        checkpoint: Root of the checkpoint the weights come from.

    Returns:
        The certificate.

    Raises:
        ReforgeError: a tensor has no counterpart or another shape, the stored tensors are not
            the given ones, or the logits differ by more than the configuration allows.
    """
    check_tensors(weights, model, "the checkpoint")
    dtype = cast(torch.dtype, getattr(torch, config.dtype))
    stored = {name: weights[name].to(dtype).contiguous() for name in tensor_names(model)}
    output.mkdir(parents=True, exist_ok=True)
    specials = _copy_tokenizer(tokenizer, output)
    _write_settings(model, specials, config.dtype, output)
    names = tensor_names(model)
    save_file(
        {names[name]: tensor for name, tensor in stored.items()},
        output / _WEIGHTS,
        metadata={"format": "pt"},  # one key alone: several are written in varying order
    )
    (output / _WEIGHTS).chmod(0o644)  # safetensors leaves it to the owner alone
    tensors = _compare_bits(stored, model, output)
    difference = logit_difference(stored, model, output)
    if not difference <= config.max_logit_difference:  # also catches not-a-number
        raise ReforgeError(
            f"the logits of {output.name} in transformers differ from ours by {difference:.3g}, "
            f"more than convert.max_logit_difference = {config.max_logit_difference:.3g}"
        )
    certificate = {
        "bytes": (output / _WEIGHTS).stat().st_size,
        "checkpoint": checkpoint,
        "dtype": config.dtype,
        "max_logit_difference": difference,
        "parameters": sum(tensor.numel() for tensor in stored.values()),
        "round_trip": "bitwise",
        "tensors": tensors,
    }
    write_json(output / CERTIFICATE, certificate)
    return certificate


def import_decoder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a ``LlamaForCausalLM`` folder: its configuration, and its weights by our names.

    The weights keep their dtype and bits. One file and several with an index are both read.

    Raises:
        ReforgeError: a file is missing or unreadable, the model has a part that our decoder has
            not, or a tensor is missing, unknown or of another shape.
    """
    model = from_llama(_read_json(folder / "config.json"), str(folder / "config.json"))
    index = folder / _INDEX
    files = sorted(set(_read_json(index)["weight_map"].values())) if index.exists() else [_WEIGHTS]
    theirs: dict[str, Tensor] = {}
    for file in files:
        try:
            theirs |= load_file(folder / file)
        except (OSError, SafetensorError) as error:
            raise ReforgeError(f"{folder / file} cannot be read: {error}") from error
    if model.tied_embeddings:
        theirs.pop("lm_head.weight", None)  # some writers store the shared tensor twice
    ours = {name: spelled for spelled, name in tensor_names(model).items()}
    weights = {ours.get(name, name): tensor for name, tensor in theirs.items()}
    check_tensors(weights, model, str(folder))
    return model, {name: weights[name] for name in tensor_names(model)}


def check_tensors(weights: Mapping[str, Tensor], model: ModelConfig, where: str) -> None:
    """Check that ``weights`` are those of ``model``, no more and no less.

    Raises:
        ReforgeError: naming each tensor that is missing, unknown or of another shape.
    """
    shapes = tensor_shapes(model)
    problems = [f"{name} is missing" for name in shapes if name not in weights]
    problems += [f"{name} is no part of the model" for name in weights if name not in shapes]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        raise ReforgeError(f"{where} does not fit its configuration:\n  " + "\n  ".join(problems))


def logit_difference(weights: Mapping[str, Tensor], model: ModelConfig, folder: Path) -> float:
    """The largest difference between our logits and those of transformers, both in fp32.

    The inputs are two sequences of fixed pseudo-random tokens. One thread computes, so that the
    number does not depend on how many there are.
    """
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(1)
    length = min(model.positions, 64)
    tokens = torch.randint(model.vocabulary, (2, length), generator=generator)
    ours = LanguageModel(model)
    load_parameters(ours, weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        )
        with torch.no_grad():
            return float((ours(tokens) - theirs(tokens).logits).abs().max())
    finally:
        torch.set_num_threads(threads)


def _copy_tokenizer(tokenizer: Path, output: Path) -> dict[str, int]:
    """Copy the tokenizer's files; returns the ids of its special tokens by role."""
    for name in _TOKENIZER:
        try:
            shutil.copyfile(tokenizer / name, output / name)
        except OSError as error:
            raise ReforgeError(
                f"{tokenizer / name} cannot be read: {error.strerror}; run `reforge tokenizer`"
            ) from error
    settings = _read_json(tokenizer / "tokenizer_config.json")
    added = _read_json(tokenizer / "tokenizer.json").get("added_tokens", [])
    ids = {token["content"]: int(token["id"]) for token in added}
    specials = {}
    for role in ("bos", "eos", "pad"):
        token = settings.get(f"{role}_token")
        token = token["content"] if isinstance(token, dict) else token
        if token in ids:
            specials[role] = ids[token]
    return specials


def _write_settings(
    model: ModelConfig, specials: Mapping[str, int], dtype: str, output: Path
) -> None:
    """Write ``config.json`` and ``generation_config.json``, without the version of a library."""
    tokens = {f"{role}_token_id": number for role, number in specials.items()}
    write_json(output / "generation_config.json", {"do_sample": False, **tokens})
    # A padding id in the model's own settings would freeze that row of the embedding when it is
    # trained further; here padding is the end of a document, which is a token to learn.
    tokens["pad_token_id"] = cast(int, None)
    write_json(
        output / "config.json", {**to_llama(model), **tokens, "dtype": dtype, "use_cache": True}
    )


def _compare_bits(
    stored: Mapping[str, Tensor], model: ModelConfig, folder: Path
) -> list[dict[str, Any]]:
    """Read the folder back and compare each tensor's bits; returns a line per tensor."""
    read, weights = import_decoder(folder)
    if read != model:
        raise ReforgeError(f"{folder / 'config.json'} reads back as another architecture: {read}")
    lines = []
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        for ours, theirs in tensor_names(model).items():
            line = {
                "ours": ours,
                "ours_sha256": _hash(stored[ours]),
                "shape": list(stored[ours].shape),
                "theirs": theirs,
                "theirs_sha256": _hash(file.get_tensor(theirs)),
            }
            lines.append(line)
            hashes = {line["ours_sha256"], line["theirs_sha256"], _hash(weights[ours])}
            if len(hashes) > 1:
                raise ReforgeError(f"{ours} is not bitwise {theirs} in {folder / _WEIGHTS}")
    return lines


def _hash(tensor: Tensor) -> str:
    """SHA-256 of the raw bytes."""
    return hash_bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ReforgeError(f"{path} cannot be read: {error}") from error
