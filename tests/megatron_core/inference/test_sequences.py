"""Several sequences in a row, and kept keys and values, against each sequence alone."""

from __future__ import annotations

import pytest
import torch

from megatron_core.config import ExpertsConfig, ModelConfig
from megatron_core.config.model import RotaryScaling
from megatron_core.inference import Cache, Decoder
from tests.models import random_decoder, small_config

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"rope_scaling": RotaryScaling(kind="yarn", factor=2.0, original_positions=32)},
    "gpt2": {
        "kv_heads": 4, "activation": "gelu_tanh", "norm": "layer", "position_embedding": "learned",
        "attention_bias": "all", "ffn_bias": True,
    },
    "mistral": {"window": 5},
    "qwen3": {"query_key_norm": "head", "head_width": 16, "tied_embeddings": False},
    "olmo2": {"query_key_norm": "all", "norm_place": "change", "kv_heads": 1},
    "mixtral": {"experts": ExpertsConfig(count=4, chosen=2, ffn=24)},
}  # fmt: skip


def tokens(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(300, (length,), generator=generator).tolist()


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return small_config(**FAMILIES[request.param])


@torch.no_grad()
def whole(decoder: Decoder, sequence: list[int]) -> torch.Tensor:
    """Logits of the plain forward pass."""
    return decoder.model(torch.tensor([sequence]))[0]


def test_scores_are_those_of_the_plain_forward_pass(config: ModelConfig) -> None:
    decoder = Decoder(random_decoder(config))
    assert torch.equal(decoder.score(tokens(23)), whole(decoder, tokens(23)))


def test_sequences_in_a_row_do_not_see_each_other(config: ModelConfig) -> None:
    decoder = Decoder(random_decoder(config))
    sequences = [tokens(length, seed) for seed, length in enumerate((9, 1, 30))]
    found = decoder.score_together(sequences, size=48)
    for logits, sequence in zip(found, sequences, strict=True):
        torch.testing.assert_close(logits, whole(decoder, sequence), rtol=1e-4, atol=1e-4)


def test_what_is_kept_gives_the_logits_of_the_whole(config: ModelConfig) -> None:
    """Two sequences side by side, one begun late, and a slot left empty between them."""
    decoder = Decoder(random_decoder(config))
    first, second = tokens(40, 1), tokens(30, 2)
    cache = Cache(3, 40, config.window)
    found = [decoder.begin(cache, 0, first[:7])]
    for token in first[7:12]:
        found.append(decoder.advance(cache, [token, None, None])[0])
    others = [decoder.begin(cache, 2, second[:3])]
    for token, other in zip(first[12:], second[3:], strict=False):
        logits = decoder.advance(cache, [token, None, other])
        found.append(logits[0])
        others.append(logits[2])
    assert cache.lengths[1] == 0
    for logits, sequence, last in ((found, first, 6), (others, second, 2)):
        expected = whole(decoder, sequence)[last : last + len(logits)]
        torch.testing.assert_close(torch.stack(logits), expected, rtol=1e-4, atol=1e-4)


def test_a_slot_is_used_again(config: ModelConfig) -> None:
    decoder = Decoder(random_decoder(config))
    cache = Cache(1, 20, config.window)
    decoder.begin(cache, 0, tokens(20, 5))
    cache.free(0)
    fresh = Cache(1, 20, config.window)
    for one in (cache, fresh):
        decoder.begin(one, 0, tokens(6))
    assert torch.equal(decoder.advance(cache, [9]), decoder.advance(fresh, [9]))


def test_neighbours_change_no_bit(config: ModelConfig) -> None:
    """Of a row of as many tokens, and of as many slots."""
    decoder = Decoder(random_decoder(config))
    alone = [decoder.score_together([tokens(12)], 48)[0]]
    between = decoder.score_together([tokens(5, 1), tokens(12), tokens(31, 2)], 48)[1]
    if config.experts is None:  # an expert has as many rows as chose it
        assert torch.equal(alone[0], between)
    found = []
    for slot in range(3):
        cache = Cache(3, 20, config.window)
        newest: list[int | None] = [None] * 3
        for other in range(slot):  # the slots before it are taken
            decoder.begin(cache, other, tokens(4 + other, other))
            newest[other] = 7
        decoder.begin(cache, slot, tokens(6))
        newest[slot] = 9
        found.append(decoder.advance(cache, newest)[slot])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
