"""Continue prompts with a decoder, each token drawn from a counter of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.checkpoint import StoredWeights, find_checkpoints, read_checkpoint
from megatron_core.config import GenerationConfig, ModelConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import IntegrityError, ReforgeError
from megatron_core.files import write_json
from megatron_core.model import LanguageModel, load_parameters


def load_decoder(checkpoint: Path) -> LanguageModel:
    """The decoder that the checkpoint in the folder ``checkpoint`` holds, fp32 on the CPU.

    Raises:
        IntegrityError: the checkpoint is damaged.
        ReforgeError: it holds another kind of model.
    """
    model = read_checkpoint(checkpoint).model
    if model.get("kind") != "decoder":
        raise ReforgeError(f"{checkpoint} holds a {model.get('kind')}, not a decoder")
    decoder = LanguageModel(ModelConfig.model_validate(model["config"]))
    load_parameters(decoder, StoredWeights(checkpoint))
    return decoder.eval()


def write_generations(
    models: Mapping[str, Path],
    tokenizer: Path,
    path: Path,
    config: GenerationConfig,
    *,
    threads: int,
) -> None:
    """Write ``[{"model", "prompt", "text"}]``: each prompt continued by each model.

    Args:
        models: Folders of checkpoints by name; the newest of each is used.
        tokenizer: Tokenizer folder.
        path: File to write.
        config: Prompts and how to draw.
        threads: CPU threads.

    Raises:
        IntegrityError: a folder holds no checkpoint, or its newest is damaged.
    """
    encoder = Tokenizer.load(tokenizer)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lines = []
        for name, folder in models.items():
            checkpoints = find_checkpoints(folder)
            if not checkpoints:
                raise IntegrityError(f"{folder} holds no checkpoint: run its stage again")
            texts = continue_texts(load_decoder(checkpoints[-1]), encoder, config)
            lines += [
                {"model": name, "prompt": prompt, "text": text}
                for prompt, text in zip(config.prompts, texts, strict=True)
            ]
    finally:
        torch.set_num_threads(before)
    write_json(path, lines)


def continue_texts(
    decoder: LanguageModel, tokenizer: Tokenizer, config: GenerationConfig
) -> list[str]:
    """The continuation of each of ``config.prompts``, without the prompt."""
    texts = []
    for prompt in config.prompts:
        # Training documents follow an end of document, so prompts do too.
        tokens = [tokenizer.end_of_document, *tokenizer.encode(prompt)]
        made = continue_tokens(
            decoder,
            tokens,
            count=config.tokens,
            temperature=config.temperature,
            seed=config.seed,
            stop=tokenizer.end_of_document,
        )
        texts.append(tokenizer.decode(made))
    return texts


@torch.no_grad()
def continue_tokens(
    decoder: LanguageModel,
    prompt: Sequence[int],
    *,
    count: int,
    temperature: float,
    seed: int,
    stop: int,
) -> list[int]:
    """At most ``count`` tokens after ``prompt``, ending before ``stop``.

    Temperature 0 takes the likeliest token. Else token t is drawn with the uniform number of
    (seed, prompt, t), so a continuation depends on no other prompt and a shorter one is the
    beginning of a longer one. Past the decoder's positions only the newest tokens are seen.
    """
    tokens = list(prompt)
    for position in range(count):
        context = torch.tensor([tokens[-decoder.config.positions :]])
        logits = decoder(context)[0, -1].double()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            token = pick(logits / temperature, uniform(seed, prompt, position))
        if token == stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def uniform(seed: int, prompt: Sequence[int], position: int) -> float:
    """A number in [0, 1), the same for the same arguments on every machine."""
    counter = f"{seed}:{','.join(map(str, prompt))}:{position}"
    digest = hashlib.sha256(counter.encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) * 2.0**-53


def pick(logits: Tensor, draw: float) -> int:
    """The token whose stretch of the cumulative distribution ``draw`` in [0, 1) falls into."""
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    token = torch.searchsorted(cumulative, draw * cumulative[-1], right=True)
    return min(int(token), len(logits) - 1)
