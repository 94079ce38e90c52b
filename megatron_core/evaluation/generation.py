"""The sample generations of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_core.config import GenerationConfig
from megatron_core.files import write_json
from megatron_core.inference import Decoder, Generator, StoredModel, open_tokenizer, special_tokens


def write_generations(
    models: Mapping[str, tuple[StoredModel, Decoder]],
    tokenizer: Path,
    path: Path,
    config: GenerationConfig,
) -> None:
    """Write ``[{"model", "prompt", "text"}]``: each prompt continued by each model.

    Args:
        models: By name.
        tokenizer: Tokenizer folder.
        path: File to write.
        config: Prompts and how to draw.

    Raises:
        ReforgeError: the tokenizer is not a model's, or a prompt fills its positions.
    """
    lines = []
    for name, (stored, decoder) in models.items():
        encoder = open_tokenizer(tokenizer, stored)
        first, ends = special_tokens(tokenizer, encoder)
        generator = Generator(decoder, encoder, slots=config.slots, ends=ends)
        prompts = [[first, *encoder.encode(prompt)] for prompt in config.prompts]
        lines += [
            {"model": name, "prompt": prompt, "text": made.text}
            for prompt, made in zip(
                config.prompts, generator.generate(prompts, config), strict=True
            )
        ]
    write_json(path, lines)
