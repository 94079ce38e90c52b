"""Documents that share a sequence, against each document computed alone in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention import attention
from kernels.cross_entropy import IGNORED
from kernels.registry import Kernels
from kernels.rotary import apply_rotary, rotary_frequencies, rotary_table
from megatron_core.config import Grid
from megatron_core.model import Documents, LanguageModel
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from tests import plain
from tests.engines import engine_of, whole_gradient
from tests.recipes import recipe, small_model
from tests.spans import normal

LENGTH = 16
LENGTHS = ([5, 11], [16], [1, 1, 7, 7], [3, 4, 2, 7])  # of the documents in each kind of sequence


def numbers_of(lengths: list[int]) -> list[int]:
    return [number for number, length in enumerate(lengths) for _ in range(length)]


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=12), min_size=1, max_size=3),
    st.sampled_from([1, 2, 4]), st.booleans(), st.sampled_from([None, 1, 3]),
)  # fmt: skip
def test_a_token_sees_its_own_document(
    documents: list[list[int]], chunks: int, causal: bool, window: int | None
) -> None:
    rows = [(numbers_of(lengths) + [99] * 12)[:12] for lengths in documents]
    made = Documents.of(torch.tensor(rows).T)
    size = 12 // chunks
    for b, row in enumerate(rows):
        assert made.positions[:, b].tolist() == [i - row.index(row[i]) for i in range(12)]
    for chunk in range(chunks):
        seen = made.seen(chunk * size, size, causal=causal, window=window)
        assert seen.shape == (len(rows), size, (chunk + 1) * size if causal else 12)
        for b, row in enumerate(rows):
            for q in range(size):
                at = chunk * size + q
                for k in range(seen.shape[2]):
                    visible = row[at] == row[k]
                    if causal:
                        visible &= k <= at and (window is None or k > at - window)
                    assert bool(seen[b, q, k]) == visible


@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_a_document_is_that_of_the_document_alone(causal: bool) -> None:
    query, key, value = (normal(name, 12, 2, 4, 8) for name in ("query", "key", "value"))
    documents = Documents.of(torch.tensor([numbers_of([5, 7]), numbers_of([1, 8, 3])]).T)
    seen = documents.seen(0, 12, causal=causal, window=None)
    mixed = attention(query, key, value, causal=causal, seen=seen)
    table = rotary_table(12, rotary_frequencies(8, 100.0))
    turned = apply_rotary(query, table[:, documents.positions])
    for b, edges in enumerate(([0, 5, 12], [0, 1, 9, 12])):
        for start, stop in pairwise(edges):
            own = (slice(start, stop), slice(b, b + 1))
            alone = attention(query[own], key[own], value[own], causal=causal)
            torch.testing.assert_close(mixed[own], alone, rtol=1e-5, atol=1e-6)
            assert torch.equal(turned[own], apply_rotary(query[own], table[:, : stop - start]))


class Packed:
    """Sequences of several documents; what follows a document is not predicted of it."""

    def __init__(self, causal: bool) -> None:
        self.causal = causal

    def documents(self, sample: int) -> list[tuple[Tensor, Tensor]]:
        """Tokens and targets of each document."""
        found = []
        for number, length in enumerate(LENGTHS[sample % len(LENGTHS)]):
            t = torch.arange(length + 1)
            tokens = (7 * sample + 11 * number + 3 * t + sample * t) % 64
            targets = tokens[1:].clone() if self.causal else tokens[:-1].clone()
            targets[:: 5 if self.causal else 2] = IGNORED
            if self.causal:
                targets[-1] = IGNORED
            found.append((tokens[:-1], targets))
        return found

    def read(self, samples: range) -> Batch:
        tokens, targets = (
            torch.stack([torch.cat([d[i] for d in self.documents(k)]) for k in samples])
            for i in (0, 1)
        )
        numbers = torch.tensor([numbers_of(LENGTHS[k % len(LENGTHS)]) for k in samples])
        return Batch(tokens, targets, int((targets != IGNORED).sum()), documents=numbers)


MODELS = {"decoder": small_model(), "encoder": small_model(kind="encoder")}
GRIDS = {"one": Grid(), "context": Grid(context=4), "all": Grid(data=4, tensor=2, context=2)}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_loss_and_gradient_are_those_of_each_document_alone(
    kind: str, grid: Grid, recompute: str
) -> None:
    config = recipe(model=MODELS[kind], grid=grid, recompute=recompute)
    packed = Packed(kind == "decoder")
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        loss, count, _ = engine.gradient(packed.read, 1).read()
    weights = {n: w.requires_grad_() for n, w in plain.initial_weights(config).items()}
    exact = torch.zeros((), dtype=torch.float64)
    for sample in range(config.batch.sequences):
        for tokens, targets in packed.documents(sample):
            scores = plain.logits(weights, config.model, tokens[None])[0]
            exact = exact + F.cross_entropy(scores, targets, reduction="sum")
    (exact / count).backward()
    assert loss == pytest.approx(exact.item() / count, rel=1e-6)
    ours = whole_gradient(engine)
    for name, weight in weights.items():
        assert weight.grad is not None
        scale = float(weight.grad.abs().max())
        torch.testing.assert_close(
            ours[name].double(), weight.grad, rtol=1e-4, atol=2e-6 * scale, msg=name
        )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"window": 3}, {"position_embedding": "learned"}, {"kind": "encoder"}],
    ids=["window", "learned", "encoder"],
)
def test_so_are_windows_and_learned_positions(changes: dict[str, object]) -> None:
    """The same sequence in one piece, and its documents as sequences of their own."""
    config = recipe(model=small_model(layers=2, **changes), grid=Grid())
    losses = {}
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        packed = Packed(causal=True)
        together = packed.read(range(config.batch.sequences))
        model = engine.stages[0]
        assert isinstance(model, LanguageModel)
        losses["packed"] = engine.heldout([lambda: together]).mean
        losses["alone"] = 0.0
        with torch.no_grad():
            for sample in range(config.batch.sequences):
                for tokens, targets in packed.documents(sample):
                    scores = model(tokens[None])[0]
                    loss = F.cross_entropy(scores, targets, reduction="sum")
                    losses["alone"] += float(loss) / together.count
    assert losses["packed"] == pytest.approx(losses["alone"], rel=1e-5)


def test_rotary_positions_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention knows distances alone, so only the angles themselves can show it."""
    used: list[Tensor] = []

    def noted(x: Tensor, table: Tensor) -> Tensor:
        used.append(table)
        return apply_rotary(x, table)

    noting = replace(Kernels(), apply_rotary=noted)
    monkeypatch.setattr("megatron_core.parallel.engine.load", lambda _: noting)
    config = recipe(model=small_model(layers=1), grid=Grid(context=4))
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        engine.heldout([lambda: Packed(causal=True).read(range(2))])
    angles = rotary_table(LENGTH, rotary_frequencies(config.model.head_size, 10_000.0))
    positions = [[i for n in LENGTHS[k] for i in range(n)] for k in range(2)]
    for chunk, table in zip((0, 3, 1, 2), used, strict=False):
        for b, row in enumerate(positions):
            assert torch.equal(table[:, :, b], angles[:, row[4 * chunk : 4 * chunk + 4]])
    assert len(used) == 8  # queries, then keys
