"""GGUF files, read back with the library's own reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.config.model import RotaryScaling
from megatron_core.conversion import export_gguf
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from tests.models import random_decoder, small_config, small_tokenizer, stored_weights

gguf = pytest.importorskip("gguf")

KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {"attention_bias": "input", "tied_embeddings": False},
    "qwen3": {"query_key_norm": "head", "head_width": 12, "vocabulary": 320},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer")


def export(
    config: ModelConfig, tokenizer: Path | None, folder: Path, dtype: str = "float32"
) -> Any:
    export_gguf(
        stored_weights(random_decoder(config)), config, tokenizer, folder,
        ConvertConfig.model_validate({"dtype": dtype}), checkpoint="root",
    )  # fmt: skip
    return gguf.GGUFReader(folder / "model.gguf")


def tensors(reader: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Values in fp32, as the library itself makes them of what is stored."""
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_there_to_the_bit(
    kind: str, dtype: str, tokenizer: Path, tmp_path: Path
) -> None:
    config = small_config(**KINDS[kind])
    found = tensors(export(config, tokenizer, tmp_path, dtype))
    weights = stored_weights(random_decoder(config))
    assert len(found) == len(weights)
    simple = {
        "token_embd.weight": "embedding.weight", "output_norm.weight": "final_norm.weight",
        "blk.1.attn_norm.weight": "layers.1.attention_norm.weight",
        "blk.1.attn_v.weight": "layers.1.attention.value.weight",
        "blk.0.attn_output.weight": "layers.0.attention.output.weight",
        "blk.1.ffn_norm.weight": "layers.1.ffn_norm.weight",
        "blk.0.ffn_gate.weight": "layers.0.ffn.gate.weight",
        "blk.0.ffn_up.weight": "layers.0.ffn.up.weight",
        "blk.0.ffn_down.weight": "layers.0.ffn.down.weight",
    }  # fmt: skip
    if kind == "qwen2":
        simple["output.weight"] = "head.weight"
        simple["blk.1.attn_k.bias"] = "layers.1.attention.key.bias"
    if kind == "qwen3":
        simple["blk.0.attn_q_norm.weight"] = "layers.0.attention.query_norm.weight"
    for name, ours in simple.items():
        weight = weights[ours]
        kept = weight if weight.ndim == 1 else weight.to(getattr(torch, dtype)).float()
        assert np.array_equal(found[name], kept.numpy()), name


def turned(x: Tensor, pairs: list[tuple[int, int]], position: int) -> Tensor:
    """``x [size]``, of which each pair of numbers is turned by its angle, in float64."""
    y = x.clone()
    for number, (i, j) in enumerate(pairs):
        angle = torch.tensor(position * 10_000.0 ** (-number / len(pairs)), dtype=torch.float64)
        y[i] = x[i] * angle.cos() - x[j] * angle.sin()
        y[j] = x[i] * angle.sin() + x[j] * angle.cos()
    return y


@pytest.mark.parametrize(("kind", "neighbours"), [("llama", True), ("qwen3", False)])
def test_heads_turn_as_llama_cpp_turns_them(
    kind: str, neighbours: bool, tokenizer: Path, tmp_path: Path
) -> None:
    """Of a Llama it turns neighbours, of a Qwen the halves; the scores must be ours."""
    config = small_config(**KINDS[kind])
    size, half = config.head_size, config.head_size // 2
    ours = stored_weights(random_decoder(config))
    theirs = tensors(export(config, tokenizer, tmp_path))
    halves = [(i, i + half) for i in range(half)]
    beside = [(2 * i, 2 * i + 1) for i in range(half)]
    x = torch.randn(2, config.hidden, dtype=torch.float64)

    def score(query: Tensor, key: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
        q, k = query.double()[size : 2 * size] @ x[0], key.double()[:size] @ x[1]
        return turned(q, pairs, 7) @ turned(k, pairs, 3)

    expected = score(
        ours["layers.1.attention.query.weight"], ours["layers.1.attention.key.weight"], halves
    )
    q, k = (torch.from_numpy(theirs[f"blk.1.attn_{name}.weight"].copy()) for name in "qk")
    torch.testing.assert_close(score(q, k, beside if neighbours else halves), expected)
    assert not torch.isclose(score(q, k, halves if neighbours else beside), expected)


def test_settings_and_tokenizer(tokenizer: Path, tmp_path: Path) -> None:
    config = small_config(
        vocabulary=320, rope_scaling=RotaryScaling(kind="linear", factor=2.0, original_positions=32)
    )
    reader = export(config, tokenizer, tmp_path, "bfloat16")
    said = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {
        "general.architecture": "llama", "general.file_type": 32, "llama.block_count": 2,
        "llama.embedding_length": 32, "llama.feed_forward_length": 48, "llama.vocab_size": 320,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.context_length": 64, "llama.rope.freq_base": 10_000.0,
        "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    assert {name: said[name] for name in wanted} == wanted
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.norm_epsilon)
    ours = Tokenizer.load(tokenizer)
    assert said["tokenizer.ggml.eos_token_id"] == ours.end_of_document
    entries = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    for token, number in entries["vocab"].items():
        assert said["tokenizer.ggml.tokens"][number] == token
    merges = [" ".join(pair) for pair in entries["merges"]]
    assert said["tokenizer.ggml.merges"] == merges
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[ours.end_of_document] == 3  # a control
    assert kinds[300:] == [5] * 20  # unused
    assert set(kinds[1:300]) == {1}


def test_the_same_weights_give_the_same_bytes(tokenizer: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(small_config(), tokenizer, tmp_path / name)
    a, b = ((tmp_path / name / "model.gguf").read_bytes() for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 8}, "window is 8"),
        ({"attention_bias": "all"}, "it has biases"),
        ({"norm_place": "change", "query_key_norm": "all"}, "it is a olmo2, there llama, qwen2"),
        (
            {"rope_scaling": RotaryScaling(kind="llama3", factor=8.0, original_positions=32)},
            "rope_scaling.kind is 'llama3'",
        ),
    ],
)
def test_models_that_it_cannot_say_are_refused(
    changes: dict[str, Any], message: str, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ReforgeError, match=message):
        export(small_config(**changes), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokenizers_that_it_cannot_say_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ReforgeError, match="holds its tokenizer"):
        export(small_config(), None, tmp_path / "out")
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (changed / name).write_text((tokenizer / name).read_text())
    described = json.loads((tokenizer / "tokenizer.json").read_text())
    for part, value in (
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", described["pre_tokenizer"] | {"add_prefix_space": True}),
    ):
        (changed / "tokenizer.json").write_text(json.dumps(described | {part: value}))
        with pytest.raises(ReforgeError, match="is no tokenizer that a GGUF file can say exactly"):
            export(small_config(), changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()
