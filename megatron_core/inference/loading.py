"""Find a model in a folder, and load what of it this rank computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from megatron_core.config import Grid
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.exchange import ModelFolder
from megatron_core.inference.decoder import Decoder
from megatron_core.model import LanguageModel, Share, add_adapter, load_parameters
from megatron_core.parallel.mesh import Mesh

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StoredModel(ModelFolder):
    """A decoder in a folder: a checkpoint of ours, or what another library reads."""

    @classmethod
    def find(cls, path: Path) -> StoredModel:
        """The model in ``path``: of a folder of checkpoints the newest. No weight is read.

        Raises:
            ReforgeError: there is none, or one that predicts no next token.
            IntegrityError: the checkpoint is damaged.
        """
        found = cls.open(path, prompted=True)
        if found.config.kind != "decoder":
            raise ReforgeError(
                f"{path} holds an encoder, which predicts no next token: generation and "
                "language-model tasks need a decoder"
            )
        return found

    @property
    def room(self) -> int:
        """Most tokens of a sequence, beside those of the soft prompt."""
        soft = self.soft_prompt
        return self.config.positions - (0 if soft is None else soft.tokens)

    def load(self, mesh: Mesh, *, shards: int | None = None, precision: str = "fp32") -> Decoder:
        """The decoder, or the tensor shards of it that this rank has.

        Args:
            mesh: The ranks.
            shards: Tensor shards that the arithmetic is cut into; None is those of its training.
            precision: ``fp32`` or ``bf16``.

        Raises:
            ConfigError: the model cannot be cut so, or the layout's ranks do not divide it.
        """
        grid = self.grid(mesh.layout.tensor, shards)
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[precision])
        try:
            model = LanguageModel(self.config, Share(tensor=mesh.tensor(grid)))
            if self.soft_prompt is not None:
                add_adapter(model, self.soft_prompt)
        finally:
            torch.set_default_dtype(before)
        load_parameters(model, self.weights)
        return Decoder(model.to(mesh.device))

    def grid(self, ranks: int, shards: int | None = None) -> Grid:
        """The grid of ``shards`` tensor shards, which ``ranks`` ranks share.

        Raises:
            ConfigError: the model cannot be cut so.
        """
        count, model = shards or self.shards, self.config
        ffn = model.ffn if model.experts is None else model.experts.ffn
        sizes = {
            "heads": model.heads, "kv_heads": model.kv_heads, "ffn": ffn,
            "vocabulary": model.vocabulary, "positions": model.positions,
        }  # fmt: skip
        odd = [f"{name} = {size}" for name, size in sizes.items() if size % count]
        if odd or count & (count - 1):
            raise ConfigError(
                f"{self.path} cannot be cut into {count} tensor shards: "
                + (f"it has {', '.join(odd)}" if odd else "not a power of two")
            )
        if count % ranks:
            raise ConfigError(
                f"--layout tensor={ranks}: must divide the {count} tensor shards that the "
                f"arithmetic of {self.path} is cut into; --shards {ranks} cuts it otherwise, and "
                "may change the last bits"
            )
        return Grid(tensor=count)


def open_tokenizer(folder: Path, model: StoredModel) -> Tokenizer:
    """The tokenizer in ``folder``, every token of which the model knows.

    Raises:
        CorpusError: it cannot be read.
        ReforgeError: it has more tokens than the model.
    """
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary_size > model.config.vocabulary:
        raise ReforgeError(
            f"the tokenizer in {folder} has {tokenizer.vocabulary_size} tokens, the model in "
            f"{model.path} {model.config.vocabulary}: they do not belong together"
        )
    return tokenizer


def special_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[int, frozenset[int]]:
    """The token that texts begin after, and those that end them.

    Texts begin after the beginning of a sequence where the tokenizer has one, else after the end
    of a document. A ``generation_config.json`` beside it may name further ends.
    """
    named = _read_json(folder / "tokenizer_config.json").get("bos_token")
    begin = str(named["content"] if isinstance(named, dict) else named)
    ends = _read_json(folder / "generation_config.json").get("eos_token_id")
    end = tokenizer.end_of_document
    further = ends if isinstance(ends, list) else [end if ends is None else ends]
    return tokenizer.special_tokens.get(begin, end), frozenset({end, *further})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ReforgeError(f"{path} cannot be read: {error}") from error
