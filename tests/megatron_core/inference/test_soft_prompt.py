"""Decoders with a soft prompt, against whole forward passes of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from megatron_core.collectives import Span
from megatron_core.config import SamplingConfig, SoftPromptConfig
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.inference import Decoder, Generator
from megatron_core.model import (
    LanguageModel,
    Share,
    add_adapter,
    load_parameters,
    parameter_shards,
)
from megatron_core.model.place import ALONE
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from tests.models import random_decoder, small_config, small_tokenizer, stored_weights
from tests.ranks import run_ranks

CONFIG, VECTORS = small_config(), 5
PROMPTS = [[5, 6], [7, 8, 9, 10], [11], [*range(20, 45)]]


def prompted(share: Share | None = None) -> LanguageModel:
    """Random weights, and vectors as large as embedded tokens."""
    model = LanguageModel(CONFIG, share)
    load_parameters(model, stored_weights(random_decoder(CONFIG)))
    add_adapter(model, SoftPromptConfig(tokens=VECTORS))
    for shard in parameter_shards(model):
        if shard.place.tensor == "soft_prompt.weight":
            generator = torch.Generator().manual_seed(4)
            shard.parameter.data.copy_(torch.randn(shard.place.shape, generator=generator) * 0.3)
    return model


@torch.no_grad()
def whole_pass(tokens: list[int]) -> Tensor:
    """Logits after each of ``tokens``: the vectors by hand before their embeddings."""
    model = prompted()
    assert model.soft_prompt is not None
    embedded = model.embedding.weight["0"][tokens]
    x = torch.cat([model.soft_prompt.weight, embedded])[:, None]
    (x,) = model.normed(model.blocks([x], ALONE), ALONE)
    (logits,) = model.scores(x, *ALONE)
    return logits[VECTORS:, 0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_tokenizer(tmp_path_factory.mktemp("prompted") / "tokenizer"))


def test_scores_are_those_of_whole_passes() -> None:
    decoder = Decoder(prompted())
    together = decoder.score_together(PROMPTS, 64)
    for tokens, beside in zip(PROMPTS, together, strict=True):
        expected = whole_pass(tokens)
        for found in (decoder.score(tokens), beside):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
        bare = Decoder(random_decoder(CONFIG)).score(tokens)
        assert (bare - expected).abs().max() > 0.1


def test_greedy_continuations_are_those_of_whole_passes(tokenizer: Tokenizer) -> None:
    """Also where they end: the vectors take positions."""
    maker = Generator(Decoder(prompted()), tokenizer, slots=3, ends=frozenset())
    made = maker.generate(PROMPTS, SamplingConfig(tokens=40, temperature=0))
    for prompt, one in zip(PROMPTS, made, strict=True):
        tokens = list(prompt)
        for _ in one.tokens:
            logits = whole_pass(tokens)[-1][: tokenizer.vocabulary_size]
            tokens.append(int(logits.argmax()))
        assert tokens[len(prompt) :] == one.tokens
    assert [one.ending for one in made] == ["tokens"] * 3 + ["positions"]
    assert len(made[3].tokens) == CONFIG.positions - VECTORS - len(PROMPTS[3])


def test_layouts_agree(tmp_path: Path) -> None:
    found = []
    for layout in ("data=1", "tensor=2"):
        ranks = Layout.parse(layout).ranks
        assert run_ranks(_score, ranks, layout, tmp_path) == [0] * ranks
        found += [torch.load(tmp_path / f"{layout}-{rank}.pt") for rank in range(ranks)]
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, found[0], strict=True))
    torch.testing.assert_close(found[0][0], whole_pass(PROMPTS[0]), rtol=1e-5, atol=1e-4)


def _score(text: str, folder: Path) -> None:
    layout = Layout.parse(text)
    with open_mesh(layout, "cpu", 1) as mesh:
        share = Share(tensor=Span(2, layout.tensor, mesh.coordinates["tensor"],
                                  mesh.groups.get("tensor")))  # fmt: skip
        decoder = Decoder(prompted(share))
        scores = [decoder.score(tokens) for tokens in PROMPTS]
        torch.save(
            [*scores, *decoder.score_together(PROMPTS, 64)], folder / f"{text}-{mesh.rank}.pt"
        )
