"""The decoder against the same mathematics in float64, written with einsum and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kernels.cross_entropy import IGNORED
from megatron_core.collectives import ContextSpan, Span
from megatron_core.config import ModelConfig
from megatron_core.model import (
    Draw,
    LanguageModel,
    Place,
    Share,
    initialize,
    load_parameters,
    parameter_shards,
)
from tests.models import random_decoder, small_config, stored_weights

Array = NDArray[np.float64]
SHAPES = {
    "grouped": small_config(),
    "untied": small_config(tied_embeddings=False, layers=1, rope_theta=500.0),
    "one_kv_head": small_config(kv_heads=1, layers=3),
    "as_many_kv_heads": small_config(kv_heads=4, norm_epsilon=1e-2),
    "encoder": small_config(kind="encoder"),
}


def norm(x: Array, weight: Array, epsilon: float) -> Array:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon) * weight


def rotate(x: Array, theta: float) -> Array:
    """``x [batch, length, heads, size]``: pair (i, i + size / 2) turns with the position."""
    size = x.shape[-1]
    out = np.empty_like(x)
    for position in range(x.shape[1]):
        for i in range(size // 2):
            angle = position / theta ** (2 * i / size)
            a, b = x[:, position, :, i], x[:, position, :, i + size // 2]
            out[:, position, :, i] = a * np.cos(angle) - b * np.sin(angle)
            out[:, position, :, i + size // 2] = a * np.sin(angle) + b * np.cos(angle)
    return out


def attend(x: Array, weights: dict[str, Array], layer: str, config: ModelConfig) -> Array:
    batch, length, _ = x.shape
    size = config.hidden // config.heads

    def project(name: str, heads: int) -> Array:
        out = np.einsum("bth,oh->bto", x, weights[f"{layer}.attention.{name}.weight"])
        return out.reshape(batch, length, heads, size)

    query = rotate(project("query", config.heads), config.rope_theta)
    key = rotate(project("key", config.kv_heads), config.rope_theta)
    value = project("value", config.kv_heads)
    mixed = np.zeros_like(query)
    for head in range(config.heads):
        group = head * config.kv_heads // config.heads
        scores = np.einsum("bts,bus->btu", query[:, :, head], key[:, :, group]) / np.sqrt(size)
        if config.kind == "decoder":
            scores[:, np.triu(np.ones((length, length), bool), k=1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed[:, :, head] = np.einsum("btu,bus->bts", shares, value[:, :, group])
    output = weights[f"{layer}.attention.output.weight"]
    return np.einsum("bto,ho->bth", mixed.reshape(batch, length, -1), output)


def feed_forward(x: Array, weights: dict[str, Array], layer: str) -> Array:
    gate, up, down = (weights[f"{layer}.ffn.{name}.weight"] for name in ("gate", "up", "down"))
    gated = np.einsum("bth,fh->btf", x, gate)
    return np.einsum(
        "btf,hf->bth", gated / (1 + np.exp(-gated)) * np.einsum("bth,fh->btf", x, up), down
    )


def logits_of(weights: dict[str, Array], config: ModelConfig, tokens: NDArray[np.int64]) -> Array:
    epsilon = config.norm_epsilon
    x = weights["embedding.weight"][tokens]
    for i in range(config.layers):
        layer = f"layers.{i}"
        x = x + attend(
            norm(x, weights[f"{layer}.attention_norm.weight"], epsilon), weights, layer, config
        )
        x = x + feed_forward(
            norm(x, weights[f"{layer}.ffn_norm.weight"], epsilon), weights, layer
        )  # fmt: skip
    head = weights["embedding.weight" if config.tied_embeddings else "head.weight"]
    return np.einsum("bth,vh->btv", norm(x, weights["final_norm.weight"], epsilon), head)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_the_formula(config: ModelConfig) -> None:
    decoder = random_decoder(config)
    tokens = torch.randint(config.vocabulary, (3, 21), generator=torch.Generator().manual_seed(0))
    weights = {name: w.double().numpy() for name, w in stored_weights(decoder).items()}
    expected = logits_of(weights, config, tokens.numpy())
    with torch.no_grad():
        logits = decoder(tokens).double().numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def gridded(config: ModelConfig, share: Share) -> LanguageModel:
    """The weights of ``random_decoder`` on a grid."""
    model = LanguageModel(config, share)
    load_parameters(model, stored_weights(random_decoder(config)))
    return model


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_losses_on_a_grid_are_those_of_the_formula(config: ModelConfig, recompute: str) -> None:
    """Each context chunk has its own; some targets do not count."""
    span, context = Span(config.kv_heads), ContextSpan(4)
    model = gridded(config, Share(tensor=span, context=context, recompute=recompute))
    generator = torch.Generator().manual_seed(0)
    tokens, targets = torch.randint(config.vocabulary, (2, 16, 3), generator=generator)
    targets[::5] = IGNORED
    places = [Place(chunk) for chunk in context.chunks]
    inputs, wanted = ([x.chunk(4)[chunk] for chunk in context.chunks] for x in (tokens, targets))
    chunks = model.blocks(model.embed(inputs, places), places)
    losses = model.losses(chunks, wanted, places)
    weights = {n: w.double().numpy() for n, w in stored_weights(random_decoder(config)).items()}
    logits = torch.from_numpy(logits_of(weights, config, tokens.T.numpy())).transpose(0, 1)
    for chunk, loss in zip(context.chunks, losses, strict=True):
        scores, labels = (x.chunk(4)[chunk].flatten(0, 1) for x in (logits, targets))
        scores, labels = scores[labels != IGNORED], labels[labels != IGNORED]
        exact = scores.logsumexp(-1) - scores.gather(1, labels[:, None])[:, 0]
        assert float(loss.detach()) == pytest.approx(float(exact.sum()), rel=1e-5)


@pytest.mark.parametrize("changed", [0, 1, 7, 15])
def test_a_token_changes_nothing_before_it(changed: int) -> None:
    decoder = random_decoder(small_config())
    tokens = torch.randint(300, (1, 16), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % 300
    with torch.no_grad():
        before, after = decoder(tokens), decoder(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.isclose(before[:, changed:], after[:, changed:]).all(-1).any()


def initial_weights(config: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    decoder = LanguageModel(config)
    initialize(decoder, config, seed)
    return stored_weights(decoder)


def test_initial_weights_are_a_function_of_seed_and_name_alone() -> None:
    deep, seed = small_config(layers=4), 3
    torch.manual_seed(1)
    first = initial_weights(deep, seed)
    torch.manual_seed(2)  # the global generator has no say
    second = initial_weights(deep, seed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # Nor have the other tensors: this model has fewer, and another vocabulary.
    shallow = initial_weights(small_config(layers=2, vocabulary=100), seed)
    scaled = ("attention.output.weight", "ffn.down.weight")
    for name, tensor in shallow.items():
        if name != "embedding.weight":
            scale = (2 / 4) ** 0.5 if name.endswith(scaled) else 1.0
            torch.testing.assert_close(first[name], tensor * scale)
    matrices = [t.flatten()[:64] for t in first.values() if t.ndim == 2]
    assert len({tuple(part.tolist()) for part in matrices}) == len(matrices)
    other = initial_weights(deep, seed + 1)
    assert not any(torch.equal(first[n], other[n]) for n in first if first[n].ndim == 2)


def test_initial_weights_of_a_grid_shard_are_the_same_on_any_rank() -> None:
    """And draws of its own, not a slice of those of the whole."""
    config = small_config(kv_heads=4)

    def shards(span: Span) -> dict[str, torch.Tensor]:
        model = LanguageModel(config, Share(tensor=span))
        initialize(model, config, 1)
        return {shard.key: shard.parameter.detach() for shard in parameter_shards(model)}

    alone = shards(Span(4))
    for rank in range(2):
        mine = shards(Span(4, 2, rank))
        assert all(torch.equal(alone[key], weight) for key, weight in mine.items())
        assert {key.partition("/")[2] for key in mine} == {"0", str(2 * rank), str(2 * rank + 1)}
    whole = shards(Span())["layers.0.ffn.up.weight/0"]
    assert not torch.equal(alone["layers.0.ffn.up.weight/1"], whole.chunk(4)[1])
    kinds = {tuple(w.flatten()[:9].tolist()) for k, w in alone.items() if w.ndim == 2}
    tied = 4  # shards of the head, which are the embedding's
    assert len(kinds) == sum(weight.ndim == 2 for weight in alone.values()) - tied


def test_dropout_is_drawn_only_where_there_is_something_to_draw_from() -> None:
    config = small_config(dropout=0.5)
    model, tokens = random_decoder(config), torch.arange(16)[:, None]
    first, again, other, evaluated = (
        model.blocks(model.embed([tokens], [place]), [place])[0]
        for place in (
            Place(draw=Draw(1, 1, (0,))), Place(draw=Draw(1, 1, (0,))),
            Place(draw=Draw(1, 1, (1,))), Place(),
        )
    )  # fmt: skip
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, evaluated)
    plain = random_decoder(small_config())
    undropped = plain.blocks(plain.embed([tokens], [Place()]), [Place()])[0]
    assert torch.equal(evaluated, undropped)


def test_initial_weights_have_their_scale() -> None:
    config = small_config(vocabulary=3000, hidden=64, ffn=512, layers=8, initial_std=0.05)
    for name, tensor in initial_weights(config, 1).items():
        if tensor.ndim < 2:
            assert torch.equal(tensor, torch.ones_like(tensor))
            continue
        residual = name.endswith(("attention.output.weight", "ffn.down.weight"))
        assert float(tensor.std()) == pytest.approx(0.05 / (4 if residual else 1), rel=0.1)
        assert abs(float(tensor.mean())) < 0.005


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # 300·32 embedding + 2 layers of (2·32·32 q, o + 2·16·32 k, v + 3·48·32 ffn + 2·32) + 32
        (small_config(), 9600 + 2 * (2048 + 1024 + 4608 + 64) + 32),
        (small_config(tied_embeddings=False), 9600 + 2 * (2048 + 1024 + 4608 + 64) + 32 + 9600),
        (small_config(layers=5, kv_heads=4), 9600 + 5 * (4096 + 4608 + 64) + 32),
    ],
    ids=["tied", "untied", "deep"],
)
def test_parameters_are_counted(config: ModelConfig, count: int) -> None:
    model = LanguageModel(config)
    own = [s for s in parameter_shards(model) if s.place.tensor not in model.tied]
    assert sum(shard.parameter.numel() for shard in own) == count
