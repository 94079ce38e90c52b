"""The classifier sees the real tokens and nothing else."""

from __future__ import annotations

import pytest
import torch

from megatron_core.model import Classifier, initialize, parameter_shards
from tests.models import small_config


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    config = small_config(initial_std=0.3)
    classifier = Classifier(config, classes=5)
    initialize(classifier, config, seed=1)
    return classifier


@torch.no_grad()
def test_logits_are_a_linear_layer_on_the_mean_of_real_tokens(classifier: Classifier) -> None:
    tokens = torch.randint(300, (4, 12), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1, 5, 12, 11])
    logits = classifier(tokens, lengths)
    weight, bias = classifier.classify.weight.double(), classifier.classify.bias.double()
    for row, length in enumerate(lengths.tolist()):
        hidden = classifier.decoder.hidden(tokens[row : row + 1, :length]).double()[0]
        expected = weight @ (hidden.sum(0) / length) + bias
        torch.testing.assert_close(logits[row].double(), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_padding_has_no_say(classifier: Classifier) -> None:
    tokens = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([2, 9, 15])
    other = tokens.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = (other[row, length:] + 7) % 300
    assert torch.equal(classifier(tokens, lengths), classifier(other, lengths))


@torch.no_grad()
def test_the_last_real_token_has_its_say(classifier: Classifier) -> None:
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    other = tokens.clone()
    other[0, 4] = 1
    assert not torch.equal(
        classifier(tokens, torch.tensor([5])), classifier(other, torch.tensor([5]))
    )


def test_it_holds_no_head() -> None:
    names = {shard.place.tensor for shard in parameter_shards(Classifier(small_config(), 5))}
    assert "decoder.head.weight" not in names
    assert "decoder.embedding.weight" in names
