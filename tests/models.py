"""Small decoders with random weights, and a small tokenizer, for tests of what uses them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint import save_checkpoint
from megatron_core.config import ByteBpe, ModelConfig
from megatron_core.data.documents import Document, write_shard
from megatron_core.data.tokenizer import make_tokenizer
from megatron_core.model import LanguageModel, parameter_shards

SENTENCE = "Finding {} is a rare change of the {}, seen in {} patients with <|endoftext|> in notes."
ORGANS = ("heart", "liver", "kidney", "lung", "retina")


def small_config(**changes: object) -> ModelConfig:
    """Two layers, with two query heads to each key and value head."""
    settings: dict[str, object] = {
        "vocabulary": 300, "positions": 64, "layers": 2, "hidden": 32, "heads": 4,
        "kv_heads": 2, "ffn": 48,
    }  # fmt: skip
    return ModelConfig.model_validate(settings | changes)


def random_decoder(config: ModelConfig, seed: int = 1) -> LanguageModel:
    """Weights large enough that no two of them could be swapped unnoticed, norms included."""
    generator = torch.Generator().manual_seed(seed)
    decoder = LanguageModel(config)
    for shard in parameter_shards(decoder):
        if shard.place.tensor not in decoder.tied:
            scale = 0.3 if len(shard.place.shape) > 1 else 1.0
            draws = torch.randn(shard.place.shape, generator=generator)
            shard.parameter.data.copy_(draws * scale)
    return decoder


def stored_weights(decoder: LanguageModel) -> dict[str, Tensor]:
    """The weights as a checkpoint gives them: tied ones under their owner."""
    return {
        shard.place.tensor: shard.parameter.detach()
        for shard in parameter_shards(decoder)
        if shard.place.tensor not in decoder.tied
    }


def write_checkpoint(folder: Path, decoder: LanguageModel) -> str:
    """A checkpoint of ``decoder`` as the trainer leaves it; returns its root."""
    checkpoint = save_checkpoint(
        folder / "step-00000001",
        {f"weights/{name}": tensor for name, tensor in stored_weights(decoder).items()},
        step=1,
        run="test",
        model={"kind": decoder.config.kind, "config": decoder.config.model_dump()},
        layout={"data": 1},
    )
    return checkpoint.root


def documents(source: str, rows: range) -> list[Document]:
    """Short documents, each with a term that it defines."""
    made = []
    for row in rows:
        organ = ORGANS[row % len(ORGANS)]
        text = SENTENCE.format(row, organ, row * 7 % 50)
        made.append(
            Document(source, row, text, {"name": f"{organ} sign {row}", "definition": text})
        )
    return made


def small_tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer of 300 entries in ``folder``; returns it."""
    shards = folder.with_name(f"{folder.name}-documents")
    write_shard(shards / "00000.jsonl", documents("notes", range(40)))
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(shards, folder, ByteBpe(vocabulary=300))
    return folder
