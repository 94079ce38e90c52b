"""Continuations, against a plain sampler and against probabilities."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_core.config import GenerationConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import IntegrityError
from megatron_core.evaluation.generation import (
    continue_texts,
    continue_tokens,
    load_decoder,
    pick,
    uniform,
    write_generations,
)
from megatron_core.model import LanguageModel
from tests.models import random_decoder, small_config, small_tokenizer, write_checkpoint

NEVER = -1


def generate(decoder: LanguageModel, prompt: list[int], **changes: object) -> list[int]:
    settings = {"count": 12, "temperature": 0.8, "seed": 1, "stop": NEVER}
    return continue_tokens(decoder, prompt, **(settings | changes))


def test_temperature_zero_takes_the_likeliest() -> None:
    decoder = random_decoder(small_config())
    tokens = [5, 6]
    for _ in range(12):
        tokens.append(int(decoder(torch.tensor([tokens])).argmax(-1)[0, -1]))
    assert generate(decoder, [5, 6], temperature=0) == tokens[2:]


def test_a_draw_falls_where_the_distribution_says() -> None:
    decoder = random_decoder(small_config(), seed=3)
    with torch.no_grad():
        logits = decoder(torch.tensor([[7, 8]]))[0, -1].double().numpy() / 40
    cumulative = np.cumsum(np.exp(logits) / np.exp(logits).sum())
    drawn = set()
    for seed in range(60):
        (token,) = generate(decoder, [7, 8], count=1, temperature=40, seed=seed)
        # The smallest token whose cumulative probability exceeds the draw.
        assert token == int((cumulative <= uniform(seed, [7, 8], 0)).sum())
        drawn.add(token)
    assert len(drawn) > 30


@pytest.mark.parametrize(("draw", "token"), [(0.0, 1), (0.499, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_a_token_of_probability_zero_is_never_drawn(draw: float, token: int) -> None:
    impossible = -float("inf")
    logits = torch.tensor([impossible, 0.0, impossible, 0.0, impossible], dtype=torch.float64)
    assert pick(logits, draw) == token


def test_a_continuation_depends_on_its_prompt_and_seed_alone(tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    tokenizer = Tokenizer.load(small_tokenizer(tmp_path / "tokenizer"))
    together = continue_texts(
        decoder, tokenizer, GenerationConfig(prompts=["a", "the heart", "in"], tokens=9)
    )
    alone = continue_texts(decoder, tokenizer, GenerationConfig(prompts=["the heart"], tokens=9))
    assert together[1] == alone[0]
    assert len(set(together)) == 3
    assert generate(decoder, [5, 6]) == generate(decoder, [5, 6])
    assert generate(decoder, [5, 6], count=5) == generate(decoder, [5, 6])[:5]
    assert generate(decoder, [5, 6]) != generate(decoder, [5, 6], seed=2)


def test_draws_are_uniform_and_do_not_repeat() -> None:
    draws = np.array([uniform(s, [p], t) for s in range(10) for p in range(10) for t in range(50)])
    assert len(set(draws)) == 5000
    assert draws.min() >= 0 and draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert abs(counts - 250).max() < 5 * np.sqrt(250)
    assert uniform(1, [12], 0) != uniform(1, [1, 2], 0)


def test_it_stops_at_the_end_of_document_and_outgrows_the_positions() -> None:
    decoder = random_decoder(small_config())
    made = generate(decoder, [5, 6], count=80)
    assert len(made) == 80  # 82 tokens on 64 positions
    stop = made[7]
    assert generate(decoder, [5, 6], stop=stop) == made[: made.index(stop)]


def test_the_decoder_of_a_checkpoint_is_the_one_that_was_saved(tmp_path: Path) -> None:
    decoder = random_decoder(small_config())
    write_checkpoint(tmp_path, decoder)
    loaded = load_decoder(tmp_path / "step-00000001")
    tokens = torch.arange(20)[None]
    assert torch.equal(loaded(tokens), decoder(tokens))


def test_every_model_continues_every_prompt(tmp_path: Path) -> None:
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    for seed in (1, 2):
        write_checkpoint(tmp_path / str(seed), random_decoder(small_config(), seed))
    config = GenerationConfig(prompts=["a", "b"], tokens=5)
    models = {"first": tmp_path / "1", "second": tmp_path / "2"}
    write_generations(models, tokenizer, tmp_path / "out.json", config, threads=1)
    lines = json.loads((tmp_path / "out.json").read_text())
    assert [(line["model"], line["prompt"]) for line in lines] == [
        ("first", "a"), ("first", "b"), ("second", "a"), ("second", "b"),
    ]  # fmt: skip
    assert lines[0]["text"] != lines[2]["text"]
    with pytest.raises(IntegrityError, match="holds no checkpoint"):
        write_generations({"x": tmp_path / "none"}, tokenizer, tmp_path / "o", config, threads=1)
