"""Megatron-Core's distributed checkpoints, out and in.

One tensor there holds a matrix of all layers, ``[layers, …]``; of experts ``[layers, experts, …]``.
Queries, keys and values lie by groups of heads, gate and up one below the other, and the rows of
the vocabulary are padded with zeros. Stock Megatron-Core loads what is written with
``dist_checkpointing.load``, whatever its own layout is.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor

from megatron_core.chunks import METADATA, Chunk, StoredChunks, write_chunks
from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.conversion.certificate import CERTIFICATE, compare_tensors
from megatron_core.conversion.companions import check_tokenizer, copy_tokenizer
from megatron_core.conversion.folder import CONFIG, LOSSLESS, read_json, read_settings
from megatron_core.conversion.megatron_names import megatron_arguments, megatron_links
from megatron_core.conversion.tensors import Converted, Link, Shape, check_names
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.files import write_json, write_text

MODEL = "model.json"
ARGUMENTS = "arguments.json"
LATEST = "latest_checkpointed_iteration.txt"
_FORMAT = "metadata.json"  # of a checkpoint's folder
_ITERATION = 1
_NUMBERED = re.compile(r"\b(layers|experts)\.(\d+)\.")
_OTHERS = ("optimizer.", "rng_state", "rerun_state_machine")  # of a training, not of the model


def export_megatron(
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    tokenizer: Path | None,
    output: Path,
    config: ConvertConfig,
    *,
    checkpoint: str,
) -> dict[str, Any]:
    """Write ``weights`` as a distributed checkpoint of Megatron-Core.

    Beside it lie ``arguments.json``, what to build its ``TransformerConfig`` and ``GPTModel``
    with, ``model.json``, our description with the true size of the vocabulary, and
    ``certificate.json``.

    Args:
        weights: fp32 tensors by parameter name, tied ones under their owner; may be lazy.
        model: Architecture of the weights.
        tokenizer: Folder whose files go along; None for none.
        output: Folder to create or fill.
        config: Dtype, and what the vocabulary is padded to.
        checkpoint: Root of the checkpoint the weights come from.

    Returns:
        The certificate.

    Raises:
        ReforgeError: Megatron-Core has no such model, the tokenizer has more entries than it, or a
            tensor has no counterpart.
    """
    rows = -(-model.vocabulary // config.vocabulary_multiple) * config.vocabulary_multiple
    arguments, links = megatron_arguments(model, rows), megatron_links(model, rows)
    check_names(weights, links)
    if tokenizer is not None:
        check_tokenizer(tokenizer, model)
    dtype = cast(torch.dtype, getattr(torch, config.dtype))
    folder = output / f"iter_{_ITERATION:07}"
    folder.mkdir(parents=True, exist_ok=True)
    by_chunk = {_chunk(link, model, dtype): link for link in links}

    def read(chunk: Chunk) -> Tensor:
        return by_chunk[chunk].join(weights, dtype).view(chunk.sizes)

    write_chunks(folder, list(by_chunk), read, _extra_states(links, model))
    _write_companions(folder, output, arguments, model)
    if tokenizer is not None:
        copy_tokenizer(tokenizer, output)
    tensors = compare_tensors(links, weights, _Tensors(StoredChunks(folder), links))
    parameters = sum(math.prod(shape) for link in links for shape in link.shapes)
    certificate = {
        "bytes": parameters * dtype.itemsize,
        "checkpoint": checkpoint,
        "dtype": config.dtype,
        "format": "megatron_core",
        "max_logit_difference": None,  # Megatron-Core is not among our dependencies
        "parameters": parameters,
        "round_trip": "bitwise",
        "tensors": tensors,
    }
    write_json(output / CERTIFICATE, certificate)
    return certificate


@dataclass(frozen=True)
class MegatronModel:
    """A model in a distributed checkpoint, whose tensors are read when they are asked for.

    Attributes:
        folder: Where it lies.
        config: What it is here.
        links: Their tensors, a layer at a time, and ours; without the padding of the vocabulary.
        files: Their tensors, a layer at a time.
        left_out: Names of tensors of the training that it was saved from.
    """

    folder: Path
    config: ModelConfig
    links: tuple[Link, ...]
    files: _Tensors
    left_out: tuple[str, ...]

    @property
    def weights(self) -> Converted:
        """Our tensors in fp32, each read when it is asked for."""
        return Converted(self.links, self.files)

    @property
    def dtypes(self) -> set[torch.dtype]:
        """In what the weights are stored."""
        return {self.files.dtype(link.theirs) for link in self.links}

    @classmethod
    def open(cls, folder: Path) -> MegatronModel:
        """Read descriptions, and check that all of it can be mapped exactly.

        The architecture, and with it the true size of the vocabulary, is that of ``model.json``,
        which our exports have, or of the ``config.json`` of a Hugging Face folder, which is to be
        laid beside a checkpoint that was made elsewhere.

        Raises:
            ReforgeError: the architecture is not told, or the tensors are not those of it, by name.
            IntegrityError: a file is missing or damaged.
        """
        config = _read_model(folder)
        links = tuple(megatron_links(config, config.vocabulary))
        stored = StoredChunks(_iteration(folder))
        left_out = tuple(sorted(name for name in stored.shapes if name.startswith(_OTHERS)))
        _check(stored, links, config, folder, left_out)
        return cls(folder, config, links, _Tensors(stored, links), left_out)


def is_megatron_folder(folder: Path) -> bool:
    """Whether ``folder`` holds a distributed checkpoint, or is one."""
    return (folder / LATEST).is_file() or _is_iteration(folder)


def _is_iteration(folder: Path) -> bool:
    return (folder / _FORMAT).is_file() and (folder / METADATA).is_file()


class _Tensors(Mapping[str, Tensor]):
    """Tensors of single layers, out of those of all layers."""

    def __init__(self, stored: StoredChunks, links: Sequence[Link]) -> None:
        self._stored = stored
        self._shapes = {link.theirs: link.shape for link in links}

    def dtype(self, name: str) -> torch.dtype:
        return self._stored.dtype(_place(name)[0])

    def __getitem__(self, name: str) -> Tensor:
        tensor, numbers = _place(name)
        shape = self._shapes[name]
        box = self._stored.read(
            tensor, (*numbers, *(0 for _ in shape)), (*(1 for _ in numbers), *shape)
        )
        return box.view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _place(name: str) -> tuple[str, tuple[int, ...]]:
    """The tensor of all layers that ``name`` is a part of, and where in it."""
    numbers = tuple(int(number) for _, number in _NUMBERED.findall(name))
    return _NUMBERED.sub(r"\1.", name), numbers


def _chunk(link: Link, model: ModelConfig, dtype: torch.dtype) -> Chunk:
    tensor, numbers = _place(link.theirs)
    return Chunk(
        tensor, (*_counts(model, numbers), *link.shape), (*numbers, *(0 for _ in link.shape)),
        (*(1 for _ in numbers), *link.shape), dtype,
    )  # fmt: skip


def _extra_states(links: Sequence[Link], model: ModelConfig) -> dict[str, bytes]:
    """What layers of Transformer Engine keep beside weights, empty; loading asks for it."""
    content = io.BytesIO()
    torch.save([io.BytesIO()], content)
    modules = dict.fromkeys(
        link.theirs.rpartition(".")[0] for link in links if link.theirs.startswith("decoder.")
    )
    modules |= {
        f"decoder.layers.{n}.self_attention.core_attention": None for n in range(model.layers)
    }
    names = []
    for module in modules:
        tensor, numbers = _place(f"{module}._extra_state")
        at = ".".join(map(str, numbers or (0,)))
        of = ".".join(map(str, _counts(model, numbers) or (1,)))
        names.append(f"{tensor}/shard_{at}_{of}")
    return dict.fromkeys(names, content.getvalue())


def _counts(model: ModelConfig, numbers: Sequence[int]) -> tuple[int, ...]:
    """How many layers, and experts, there are where ``numbers`` say which."""
    return (model.layers, model.experts.count if model.experts else 0)[: len(numbers)]


def _write_companions(
    folder: Path, output: Path, arguments: Mapping[str, Any], model: ModelConfig
) -> None:
    common = io.BytesIO()
    torch.save({"checkpoint_version": 3.0, "iteration": _ITERATION}, common)
    (folder / "common.pt").write_bytes(common.getvalue())
    write_json(
        folder / _FORMAT,
        {
            "common_backend": "torch",
            "common_backend_version": 1,
            "sharded_backend": "torch_dist",
            "sharded_backend_version": 1,
        },
    )
    write_text(output / LATEST, f"{_ITERATION}\n")
    write_json(output / ARGUMENTS, arguments)
    write_json(output / MODEL, model.model_dump(mode="json"))


def _read_model(folder: Path) -> ModelConfig:
    if (folder / MODEL).exists():
        try:
            return ModelConfig.model_validate(read_json(folder / MODEL))
        except ValidationError as error:
            raise IntegrityError(f"{folder / MODEL} describes no model: {error}") from error
    if (folder / CONFIG).exists():
        return read_settings(read_json(folder / CONFIG), str(folder / CONFIG))[1]
    raise ReforgeError(
        f"{folder} does not tell its architecture: lay the config.json of the same model as a "
        "Hugging Face folder beside it"
    )


def _iteration(folder: Path) -> Path:
    """The folder of the newest iteration, or ``folder`` where it is one itself."""
    if _is_iteration(folder):
        return folder
    try:
        number = int((folder / LATEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReforgeError(f"{folder / LATEST} tells no iteration: {error}") from error
    return folder / f"iter_{number:07}"


def _check(
    stored: StoredChunks,
    links: Sequence[Link],
    model: ModelConfig,
    folder: Path,
    left_out: Sequence[str],
) -> None:
    """Check that the tensors are those of the model, no more and no less."""
    wanted: dict[str, Shape] = {}
    for link in links:
        chunk = _chunk(link, model, torch.float32)
        wanted[chunk.tensor] = chunk.shape
    problems = [f"{name} is missing" for name in wanted if name not in stored.shapes]
    for name, shape in stored.shapes.items():
        if name in left_out:
            continue
        if name not in wanted:
            problems.append(f"{name} is no part of the model")
        elif stored.dtype(name) not in LOSSLESS:
            problems.append(f"{name} is {stored.dtype(name)}, which fp32 cannot hold exactly")
        elif shape != wanted[name] and not _is_padded(name, shape, wanted[name]):
            problems.append(f"{name} is {list(shape)}, not {list(wanted[name])}")
    if problems:
        raise ReforgeError(f"{folder} does not fit its configuration:\n  " + "\n  ".join(problems))


def _is_padded(name: str, shape: Shape, wanted: Shape) -> bool:
    words = name in ("embedding.word_embeddings.weight", "output_layer.weight")
    return words and shape[1:] == wanted[1:] and shape[0] > wanted[0]
