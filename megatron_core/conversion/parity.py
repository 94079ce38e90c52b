"""Whether transformers computes from a folder what we compute from the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.config import ConvertConfig, ModelConfig
from megatron_core.errors import ReforgeError
from megatron_core.model import LanguageModel, load_parameters
from megatron_core.model.place import ALONE


def logit_difference(weights: Mapping[str, Tensor], model: ModelConfig, folder: Path) -> float:
    """The largest difference between our logits and those of transformers, both in fp32.

    With a pooler those of pairs are among them. The inputs are two sequences of fixed pseudo-random
    tokens. One thread computes, so that the number does not depend on how many there are. Both
    models are in memory whole.
    """
    tokens = probe(model)
    ours = LanguageModel(model)
    load_parameters(ours, weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            expected = _logits(ours, tokens)
            del ours
            found = load_transformers(folder, model)(tokens).to_tuple()  # logits come first
            differences = [(a - b).abs().max() for a, b in zip(expected, found, strict=False)]
            return float(torch.stack(differences).max())
    finally:
        torch.set_num_threads(threads)


def _logits(model: LanguageModel, tokens: Tensor) -> list[Tensor]:
    """Those of the tokens, and of pairs where there is a pooler."""
    if not model.config.pooler:
        return [model(tokens)]
    return [model(tokens), model.pair_scores(model.hidden(tokens).transpose(0, 1), *ALONE)]


def check_logits(
    weights: Mapping[str, Tensor], model: ModelConfig, folder: Path, config: ConvertConfig
) -> float:
    """:func:`logit_difference`; ReforgeError where it is more than the configuration allows."""
    difference = logit_difference(weights, model, folder)
    if not difference <= config.max_logit_difference:  # also catches not-a-number
        raise ReforgeError(
            f"the logits of {folder.name} in transformers differ from ours by {difference:.3g}, "
            f"more than convert.max_logit_difference = {config.max_logit_difference:.3g}"
        )
    return difference


def probe(model: ModelConfig) -> Tensor:
    """Fixed inputs int64 ``[2, s]`` for ``model``; they reach past a sliding window if they can."""
    generator = torch.Generator().manual_seed(1)
    length = min(model.positions, max(64, 2 * min(model.window or 0, 256)))
    return torch.randint(model.vocabulary, (2, length), generator=generator)


def load_transformers(folder: Path, model: ModelConfig) -> torch.nn.Module:
    """The model of transformers in ``folder``, in fp32, for evaluation; no code of its own runs."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForPreTraining

    encoder = AutoModelForPreTraining if model.pooler else AutoModelForMaskedLM
    kind = AutoModelForCausalLM if model.kind == "decoder" else encoder
    loaded: torch.nn.Module = kind.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
        use_safetensors=True,
    )  # fmt: skip
    return loaded.eval()
