"""GGUF files, out: a model and its tokenizer in one file, for llama.cpp and what builds on it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion.certificate import CERTIFICATE, compare_tensors
from megatron_core.conversion.companions import check_tokenizer
from megatron_core.conversion.hugging_face import find_family
from megatron_core.conversion.tensor_files import raw_bytes
from megatron_core.conversion.tensors import (
    Interleaved,
    Link,
    TensorRule,
    check_names,
    link_tensors,
    rule,
)
from megatron_core.data.tokenizer.folder import open_backend, read_config, read_roles
from megatron_core.errors import MissingExtraError, ReforgeError
from megatron_core.files import write_json

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE = "model.gguf"
_KINDS = ("llama", "qwen2", "qwen3")  # architectures, by the name that Hugging Face has too
# How llama.cpp calls the ways to cut a text before byte pair encoding that it has in its code.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CUTS = {"gpt-2": None, "llama-bpe": _SPLIT}


def export_gguf(
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    tokenizer: Path | None,
    output: Path,
    config: ConvertConfig,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Write ``weights`` and their tokenizer as ``model.gguf``, and ``certificate.json`` beside it.

    Matrices have the configured dtype; vectors are always fp32, as llama.cpp needs them.

    Args:
        weights: fp32 tensors by parameter name, tied ones under their owner; may be lazy.
        model: Architecture of the weights: a Llama, Qwen 2 or Qwen 3.
        tokenizer: Folder of a byte-level tokenizer.
        output: Folder to create or fill.
        config: Dtype.
        checkpoint: Root of the checkpoint the weights come from.

    Returns:
        The certificate.

    Raises:
        MissingExtraError: the library is not installed.
        ReforgeError: the file cannot say what the model or the tokenizer is, or they do not fit.
        IntegrityError: what is read back is not bitwise the same.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf") from error
    kind = _kind(model)
    links = link_tensors(model, _rules(model, kind), "GGUF")
    check_names(weights, links)
    if tokenizer is None:
        raise ReforgeError("a GGUF file holds its tokenizer: name one with --tokenizer")
    check_tokenizer(tokenizer, model)
    dtype = cast(torch.dtype, getattr(torch, config.dtype))
    writer = gguf.GGUFWriter(None, kind)
    _describe(writer, model)
    writer.add_file_type({torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}[dtype])
    _write_tokenizer(writer, tokenizer, model)
    output.mkdir(parents=True, exist_ok=True)
    _write_tensors(writer, output / FILE, links, weights, dtype)
    certificate = {
        "bytes": (output / FILE).stat().st_size,
        "checkpoint": checkpoint,
        "dtype": config.dtype,
        "format": "gguf",
        "max_logit_difference": None,  # nothing that computes from it is among our dependencies
        "parameters": sum(math.prod(link.shape) for link in links),
        "round_trip": "bitwise",
        "tensors": compare_tensors(links, weights, _Tensors(output / FILE)),
    }
    write_json(output / CERTIFICATE, certificate)
    return certificate


def _write_tensors(
    writer: GGUFWriter,
    path: Path,
    links: Sequence[Link],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """Write what was described, and the tensors one at a time."""
    from gguf import GGMLQuantizationType as Type

    types = {torch.float32: Type.F32, torch.float16: Type.F16, torch.bfloat16: Type.BF16}
    stored = {link.theirs: dtype if len(link.shape) > 1 else torch.float32 for link in links}
    for link in links:
        of = stored[link.theirs]
        size = math.prod(link.shape) * of.itemsize
        writer.add_tensor_info(link.theirs, link.shape, np.dtype(np.float32), size, types[of])
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for link in links:
        content = raw_bytes(link.join(weights, stored[link.theirs]))
        writer.write_tensor_data(np.frombuffer(content, np.uint8))
    writer.close()


class _Tensors(Mapping[str, Tensor]):
    """What the library's own reader finds in a file."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._read = {tensor.name: tensor for tensor in GGUFReader(path).tensors}

    def __getitem__(self, name: str) -> Tensor:
        found = self._read[name]
        data = torch.from_numpy(np.array(found.data))
        return data.view(torch.bfloat16) if data.dtype == torch.uint8 else data

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _kind(model: ModelConfig) -> str:
    """The architecture; ReforgeError where the file could not say all that the model computes."""
    kind, scaling = find_family(model).model_type, model.rope_scaling
    problems = [f"it is a {kind}, there {', '.join(_KINDS)}"] if kind not in _KINDS else []
    if kind == "llama" and (model.attention_bias != "none" or model.ffn_bias):
        problems.append("it has biases")
    if model.window is not None:
        problems.append(f"window is {model.window}")
    if scaling is not None and scaling.kind != "linear":
        problems.append(f"rope_scaling.kind is {scaling.kind!r}, there 'linear'")
    if problems:
        raise ReforgeError("no GGUF file is written of this model: " + "; ".join(problems))
    return kind


def _rules(model: ModelConfig, kind: str) -> list[TensorRule]:
    block, attention = "blk.{layer}", "layers.{layer}.attention"
    names = {
        "attention_norm": "attn_norm", "attention.value": "attn_v",
        "attention.output": "attn_output", "attention.query_norm": "attn_q_norm",
        "attention.key_norm": "attn_k_norm", "ffn_norm": "ffn_norm", "ffn.gate": "ffn_gate",
        "ffn.up": "ffn_up", "ffn.down": "ffn_down",
    }  # fmt: skip
    query = key = None
    if kind == "llama":  # of which it turns neighbours, as Meta's own code; of others what we do
        query, key = Interleaved(model.heads), Interleaved(model.kv_heads)
    return [
        rule("embedding", "token_embd"),
        rule(f"{attention}.query", f"{block}.attn_q", query),
        rule(f"{attention}.key", f"{block}.attn_k", key),
        *(rule(f"layers.{{layer}}.{ours}", f"{block}.{theirs}") for ours, theirs in names.items()),
        rule("final_norm", "output_norm"),
        rule("head", "output"),
    ]


def _describe(writer: GGUFWriter, model: ModelConfig) -> None:
    from gguf import RopeScalingType

    writer.add_vocab_size(model.vocabulary)
    writer.add_context_length(model.positions)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.ffn)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_rope_dimension_count(model.head_size)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_layer_norm_rms_eps(model.norm_epsilon)
    if model.rope_scaling is not None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(model.rope_scaling.factor)


def _write_tokenizer(writer: GGUFWriter, folder: Path, model: ModelConfig) -> None:
    """A byte-level tokenizer; ids past its own, of rows that only pad the model, are unused."""
    from gguf import TokenType

    backend, roles = open_backend(folder), read_roles(read_config(folder))
    described = json.loads(backend.to_str())
    cut = _cut(described, folder)
    ids = backend.get_vocab(with_added_tokens=True)
    tokens = [f"[PAD{number}]" for number in range(model.vocabulary)]
    types = [TokenType.UNUSED] * model.vocabulary
    for token, number in ids.items():
        tokens[number], types[number] = token, TokenType.NORMAL
    for number, added in backend.get_added_tokens_decoder().items():
        types[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    for role, add in (
        ("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):  # fmt: skip
        if roles.get(role) in ids:
            add(ids[roles[role]])
    plain, framed = (backend.encode("a", add_special_tokens=extra).ids for extra in (False, True))
    begins = [ids[roles["bos"]], *plain] if roles.get("bos") in ids else None
    if framed not in (plain, begins):
        raise ReforgeError(f"{folder} puts more around a text than a beginning, which GGUF has not")
    writer.add_add_bos_token(framed == begins)


def _cut(described: Mapping[str, Any], folder: Path) -> str:
    """The name of how texts are cut; ReforgeError where llama.cpp would give other tokens."""
    bpe, way = described["model"], described["pre_tokenizer"] or {}
    steps = way["pretokenizers"] if way.get("type") == "Sequence" else [way]
    *splits, last = steps
    regexes = [split.get("pattern", {}).get("Regex") for split in splits]
    if bpe["type"] == "BPE" and last.get("type") == "ByteLevel" and not described["normalizer"]:
        for name, regex in _CUTS.items():
            wanted = [] if regex is None else [regex]
            whole = bpe.get("ignore_merges", False) == (name == "llama-bpe")
            own = last["use_regex"] == (regex is None) and not last["add_prefix_space"]
            if regexes == wanted and whole and own:
                return name
    raise ReforgeError(
        f"{folder} is no tokenizer that a GGUF file can say exactly: byte-level, cut as in "
        f"{' or '.join(_CUTS)}"
    )
