"""The promise: same recipe, same bits, whatever the layout and however often it is killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_core.checkpoint import first_difference
from megatron_core.config import AdamW, LossScale, PretrainConfig
from megatron_core.optimizer import BLOCK
from tests.recipes import FAMILIES, OTHER_FAMILIES, PAIRS, recipe, small_model
from tests.trainings import Trained, train

Alone = Callable[..., Trained]

# Stages of three layers are uneven, and so are the tensors of the buckets.
LAYOUTS = [
    *((family, "data=2,pipeline=2") for family in FAMILIES),
    *((family, "tensor=2,context=2") for family in FAMILIES),
    *((family, "data=2,pipeline=2") for family in OTHER_FAMILIES),
    *((family, "tensor=2,context=2") for family in OTHER_FAMILIES),
    *((family, "data=2,tensor=2,pipeline=2") for family in PAIRS),
    *((family, "context=2,pipeline=2,schedule=zero_bubble") for family in PAIRS),
    ("pairs", "data=4"),
    ("pairs", "tensor=2"),
    ("pairs", "context=2"),
    ("pairs", "pipeline=3"),
    ("decoder", "data=2,tensor=2,context=2"),
    ("decoder", "data=4"),
    ("decoder", "tensor=2"),
    ("decoder", "context=2"),
    ("decoder", "pipeline=3"),
    ("decoder", "pipeline=2,schedule=zero_bubble"),
    ("untied", "pipeline=3,data=2,schedule=zero_bubble"),
    ("experts", "data=4,expert=2"),
    ("experts", "data=2,expert=2,tensor=2,pipeline=2"),
    ("experts", "pipeline=2,context=2,schedule=zero_bubble"),
]


@pytest.fixture(scope="module")
def alone(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The run of a recipe on one rank, which all other layouts are compared with."""
    known: dict[str, Trained] = {}

    def trained(config: PretrainConfig) -> Trained:
        name = config.model_dump_json()
        if name not in known:
            known[name] = Trained(tmp_path_factory.mktemp("alone"))
            assert train(tokens, known[name].folder, config)
        return known[name]

    return trained


def assert_same(ours: Trained, theirs: Trained) -> None:
    """Every number of every step: losses, norms, gradients, weights and moments."""
    assert ours.divergence(theirs) is None
    assert ours.steps == theirs.steps
    assert ours.roots == theirs.roots


@pytest.mark.parametrize(("family", "layout"), LAYOUTS)
def test_layouts_agree(
    family: str, layout: str, alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    config = recipe(family)
    assert train(tokens, tmp_path, config, layout)
    assert_same(Trained(tmp_path), alone(config))


def test_interleaved_stages_agree(alone: Alone, tokens: Path, tmp_path: Path) -> None:
    """Two stages on each of two ranks, of five layers."""
    config = recipe(model=FAMILIES["decoder"].model_copy(update={"layers": 5}))
    assert train(tokens, tmp_path, config, "pipeline=2,stages=2")
    assert_same(Trained(tmp_path), alone(config))


@pytest.mark.parametrize(
    ("recompute", "layout"),
    [("selective", "data=1"), ("full", "data=1"), ("full", "tensor=2,pipeline=2")],
)
def test_recomputed_activations_agree(
    recompute: str, layout: str, alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    assert train(tokens, tmp_path, recipe(recompute=recompute), layout)
    assert_same(Trained(tmp_path), alone(recipe()))


APART = {"packing": "best_fit", "reset_at_documents": True}


@pytest.mark.parametrize(
    ("family", "layout", "recompute"),
    [
        ("decoder", "data=2,pipeline=2", "none"),
        ("decoder", "tensor=2,context=2", "full"),
        ("encoder", "context=2,pipeline=2", "selective"),
    ],
)
def test_documents_kept_apart_agree(
    family: str, layout: str, recompute: str, alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    """Masks and positions of every token's document, whatever chunk it is in."""
    assert train(tokens, tmp_path, recipe(family, **APART, recompute=recompute), layout)
    assert_same(Trained(tmp_path), alone(recipe(family, **APART)))
    assert alone(recipe(family, **APART)).roots != alone(recipe(family)).roots


@pytest.mark.parametrize(
    ("megabytes", "layout"), [(1e-6, "data=1"), (1e-6, "data=2,context=2"), (0.02, "context=2")]
)
def test_any_size_of_bucket_agrees(
    megabytes: float, layout: str, alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    """One shard in each bucket, or a few."""
    assert train(tokens, tmp_path, recipe(bucket_megabytes=megabytes), layout)
    assert_same(Trained(tmp_path), alone(recipe()))


def test_tensors_cut_between_owners_agree(alone: Alone, tokens: Path, tmp_path: Path) -> None:
    """Each shard of the embedding has two blocks, and with four owners each owns one."""
    config = recipe(model=small_model(layers=1, vocabulary=2048), steps=3)
    assert 2048 // 2 * config.model.hidden == 2 * BLOCK
    assert not train(tokens, tmp_path, config, "data=4", kill_at=3)
    assert train(tokens, tmp_path, config, "data=2,context=2")
    assert_same(Trained(tmp_path), alone(config))


def test_killed_and_resumed_on_other_layouts(
    alone: Alone, tokens: Path, tmp_path: Path
) -> None:  # fmt: skip
    """Four kills, when and on which layout left to a seeded chance."""
    dice, config = random.Random(0), recipe(steps=6)
    layouts = ["data=1", "data=4", "tensor=2,context=2", "data=2,pipeline=2", "pipeline=3"]
    *killed, last = dice.sample(layouts, 5)
    for kill_at, layout in zip(sorted(dice.sample(range(2, 7), 4)), killed, strict=True):
        assert not train(tokens, tmp_path, config, layout, kill_at=kill_at)
        assert max(Trained(tmp_path).roots, default=0) < kill_at
    assert train(tokens, tmp_path, config, last)
    assert_same(Trained(tmp_path), alone(config))


@pytest.mark.parametrize("layout", ["data=2,tensor=2", "context=2,pipeline=2"])
def test_bf16_layouts_agree(layout: str, alone: Alone, tokens: Path, tmp_path: Path) -> None:
    config = recipe(precision="bf16")
    assert train(tokens, tmp_path, config, layout)
    assert_same(Trained(tmp_path), alone(config))
    assert alone(config).roots != alone(recipe()).roots


def test_pairs_killed_in_half_precision_are_resumed_elsewhere(
    alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    config = recipe("pairs", precision="bf16", steps=3)
    assert not train(tokens, tmp_path, config, "data=2,tensor=2", kill_at=3)
    assert max(Trained(tmp_path).roots) < 3
    assert train(tokens, tmp_path, config, "context=2,pipeline=2")
    assert_same(Trained(tmp_path), alone(config))
    records = [json.loads(line) for line in alone(config).steps.splitlines()]
    assert all(0 < record["pair_loss"] < record["loss"] for record in records)


@pytest.mark.parametrize("layout", ["data=2,tensor=2", "context=2,pipeline=2"])
def test_fp16_layouts_agree_on_what_overflows(
    layout: str, alone: Alone, tokens: Path, tmp_path: Path
) -> None:
    """The first scale is too large; the run is killed while it falls, and resumed elsewhere."""
    scale = LossScale(initial=2**14, growth_every=1)
    config = recipe(precision="fp16", loss_scale=scale, steps=5)
    records = [json.loads(line) for line in alone(config).steps.splitlines()]
    skipped = [record.get("skipped", False) for record in records]
    scales = [record["loss_scale"] for record in records]
    assert skipped[:3] == [True, True, False]
    assert scales[:4] == [2**14, 2**13, 2**12, 2**13]
    assert not train(tokens, tmp_path, config, layout, kill_at=4)
    assert train(tokens, tmp_path, config, "data=1" if "data" in layout else "data=4")
    assert_same(Trained(tmp_path), alone(config))


def test_another_recipe_is_another_run(alone: Alone) -> None:
    ours = alone(recipe())
    theirs = alone(recipe(optimizer=AdamW(learning_rate=1.1e-2, clip=0.5)))
    assert ours.run.name != theirs.run.name
    divergence = ours.divergence(theirs)
    assert divergence is not None
    assert (divergence.step, divergence.kind) == (2, "weights")  # of the first gradient it is none
    difference = first_difference(
        ours.run / "checkpoints/step-00000001", theirs.run / "checkpoints/step-00000001"
    )
    assert difference is not None
    assert not isinstance(difference, str)
    assert difference.tensor == "weights/embedding.weight"
