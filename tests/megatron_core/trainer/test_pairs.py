"""Training on pairs of segments, against transformers' own pretraining models in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import ConvertConfig, Grid, MaskingConfig, PretrainConfig
from megatron_core.conversion import HuggingFaceModel, export_model
from megatron_core.conversion.families import bert, megatron_bert
from megatron_core.conversion.family import Family, example
from megatron_core.conversion.parity import load_transformers
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.pairs import PairObjective
from tests import plain
from tests.engines import engine_of, whole_gradient
from tests.recipes import recipe

KINDS = ("sentence_order", "next_sentence")
CLS, SEP = 61, 62


def pair_recipe(kind: str = "sentence_order", **changes: Any) -> PretrainConfig:
    masking = {"framed": True, "pairs": kind, "whole_words": True}
    return recipe("pairs", masking=MaskingConfig.model_validate(masking), **changes)


def objective_of(tokens: Path, kind: str = "sentence_order") -> PairObjective:
    return PairObjective(tokens, pair_recipe(kind), vocabulary=64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_its_two_segments(kind: str, tokens: Path) -> None:
    objective = objective_of(tokens, kind)
    batch = objective.read(range(60))
    assert batch.types is not None
    assert batch.labels is not None
    assert batch.documents is not None
    assert set(batch.labels.tolist()) == {0, 1}
    for row in range(60):
        first, second = (
            objective.streams[source].tokens[start : start + count].tolist()
            for source, start, count in objective.locate(row)
        )
        framed = [CLS, *first, SEP, *second, SEP]
        padding = 16 - len(framed)
        targets = batch.targets[row]
        truth = torch.where(targets == IGNORED, batch.tokens[row], targets)
        assert truth.tolist() == [*framed, *[0] * padding]
        sizes = len(first) + 2, len(second) + 1
        assert batch.types[row].tolist() == [0] * sizes[0] + [1] * sizes[1] + [0] * padding
        assert batch.documents[row].tolist() == [0] * len(framed) + [-1] * padding
        assert (targets != IGNORED).any()
        (_, a, count), (_, b, _) = objective.locate(row)
        assert batch.labels[row] == (b != a + count)


def test_heldout_pairs_are_fixed_and_each_is_told_once(tokens: Path) -> None:
    objective = objective_of(tokens)
    assert len(objective.held) < 64  # so every piece is taken

    def labels(microbatch: int, multiple: int) -> Tensor:
        made = [make() for make in objective.heldout(microbatch, multiple)]
        found = torch.cat([batch.labels for batch in made if batch.labels is not None])
        filled = torch.cat([(batch.targets == IGNORED).all(dim=1) for batch in made])
        assert ((found == IGNORED) == filled).all()
        return found[found != IGNORED]

    expected = labels(1, 1)
    assert len(expected) == len(objective.held)
    assert torch.equal(labels(3, 4), expected)
    assert set(expected.tolist()) == {0, 1}


GRIDS = {"one": Grid(), "context": Grid(context=4), "all": Grid(data=4, tensor=2, context=2)}
FAMILIES = {"sentence_order": megatron_bert.FAMILY, "next_sentence": bert.FAMILY}


def as_transformers(config: PretrainConfig, folder: Path) -> torch.nn.Module:
    """The recipe's initial weights in transformers' model of both losses, in float64."""
    weights = {name: w.float() for name, w in plain.initial_weights(config).items()}
    settings = ConvertConfig(compare_logits=False)
    export_model(weights, config.model, None, folder, settings, checkpoint="")
    return load_transformers(folder, config.model).double()


def losses(model: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The mean over all predictions, and that over all pairs."""
    assert batch.documents is not None
    assert batch.labels is not None
    found = model(
        batch.tokens, token_type_ids=batch.types, attention_mask=(batch.documents == 0).long()
    )
    tokens = F.cross_entropy(found.prediction_logits.flatten(0, 1), batch.targets.flatten())
    return tokens, F.cross_entropy(found.seq_relationship_logits, batch.labels)


def gradients(model: Any, read: HuggingFaceModel, folder: Path) -> dict[str, Tensor]:
    """By our names: saved as weights, gradients are named as these are."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(folder)
    files = load_file(folder / "model.safetensors")
    return {
        name: part for link in read.links for name, part in link.split(files[link.theirs]).items()
    }


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("kind", "family"), FAMILIES.items(), ids=FAMILIES)
def test_loss_and_gradient_are_those_of_transformers(
    kind: str, family: Family, grid: Grid, tokens: Path, tmp_path: Path
) -> None:
    """Means over the whole batch, though shards have different numbers of predictions."""
    model = example(family, pooler=True, vocabulary=64, positions=32, initial_std=0.1)
    config = pair_recipe(kind, model=model, grid=grid)
    objective = PairObjective(tokens, config, vocabulary=64)
    theirs = as_transformers(config, tmp_path / "model")
    with open_mesh(Layout(), "cpu", 1) as mesh:
        engine = engine_of(config, mesh)
        loss = engine.gradient(objective.read, 1).read()
        heldout = engine.heldout(objective.heldout(2, 4))
    exact, of_pairs = losses(theirs, objective.read(range(config.batch.sequences)))
    (exact + of_pairs).backward()
    assert loss.pairs == pytest.approx(of_pairs.item(), rel=1e-6)
    assert loss.mean == pytest.approx((exact + of_pairs).item(), rel=1e-6)
    (whole,) = [make() for make in objective.heldout(len(objective.held), 1)]
    with torch.no_grad():
        exact, of_pairs = losses(theirs, whole)
    assert heldout.mean == pytest.approx((exact + of_pairs).item(), rel=1e-6)
    assert heldout.pairs == pytest.approx(of_pairs.item(), rel=1e-6)
    ours = whole_gradient(engine)
    read = HuggingFaceModel.open(tmp_path / "model")
    expected = gradients(theirs, read, tmp_path / "gradients")
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 1e-4 or name.endswith("key.bias"), name  # which changes no softmax
        torch.testing.assert_close(
            ours[name].double(), gradient, rtol=1e-4, atol=max(2e-6 * scale, 1e-8), msg=name
        )  # fmt: skip
