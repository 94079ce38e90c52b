"""Faults that train without a word elsewhere are here a failing equality.

Each fault is planted on every rank of a layout that gives the bits of one rank without it
(``test_same_bits.py``). Some are silent bugs of kinds that others have published, some the hazards
that the rules for numbers are there for:

- a sum whose order is the library's or the ranks', a product whose shape is the layout's, one sum
  for both uses of tied weights: the reasons why no other trainer keeps its bits over layouts;
- dropout drawn from a generator that is carried along, which tensor ranks must then keep apart or
  alike by hand;
- a mean over what one rank or one microbatch has, instead of over all predictions: the gradient
  accumulation bug of 2024 that many trainers shared;
- replicated parameters counted by every tensor rank in the norm that gradients are clipped to:
  torchtune issue 2420;
- gradients of microbatches lost: NeMo Automodel pull request 3530;
- norm gradients not summed over the ranks that share a sequence: Megatron-LM issue 1446;
- a gradient divided by the ranks where it was a mean already: Megatron-LM issue 906;
- a replica that computes on with the weights of the step before: Megatron-LM issue 950.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import faults
from tests.recipes import recipe
from tests.trainings import Fault, Trained, train


@dataclass(frozen=True)
class Planted:
    """A fault and what it is caught by.

    Attributes:
        fault: Plants it.
        layout: Where it shows.
        step: The first step at which a fingerprint differs from that of one rank.
        kind: Whether that is of a gradient or of weights.
        tensor: Pattern of the first tensor, in the order of their names, that differs.
        alone: Whether it also changes the bits of one rank.
    """

    fault: Fault
    layout: str
    step: int
    kind: str
    tensor: str = "embedding.weight"
    alone: bool = False


FAULTS = [
    Planted(faults.sum_in_a_row, "data=4", 1, "gradient"),
    Planted(faults.all_reduced_sum, "data=4", 1, "gradient"),
    Planted(faults.one_product_of_all_shards, "tensor=2", 1, "gradient", alone=True),
    Planted(faults.carried_generator, "data=4", 1, "gradient", alone=True),
    Planted(faults.shared_tied_sum, "data=2,pipeline=2", 1, "gradient", alone=True),
    Planted(faults.divided_by_the_local_count, "data=4", 1, "gradient"),
    Planted(faults.replicated_squares_counted_by_every_rank, "tensor=2", 2, "weights"),
    Planted(faults.last_microbatch_dropped, "data=4", 1, "gradient"),
    Planted(faults.norms_not_summed_over_slices, "tensor=2", 1, "gradient", r".*norm\.weight"),
    Planted(faults.averaged_over_ranks, "data=4", 1, "gradient"),
    Planted(faults.stale_replica, "data=4", 2, "gradient"),
]


@pytest.fixture(scope="module")
def sound(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One rank, no fault."""
    folder = tmp_path_factory.mktemp("sound")
    assert train(tokens, folder, recipe())
    return Trained(folder)


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.fault.__name__)
def test_a_planted_fault_is_caught(
    planted: Planted, sound: Trained, tokens: Path, tmp_path: Path
) -> None:
    alone = sound
    if planted.alone:
        assert train(tokens, tmp_path / "alone", recipe(), fault=planted.fault)
        alone = Trained(tmp_path / "alone")
    assert train(tokens, tmp_path / "ranks", recipe(), planted.layout, fault=planted.fault)
    ranks = Trained(tmp_path / "ranks")
    found = ranks.divergence(alone)
    assert found is not None
    assert (found.step, found.kind) == (planted.step, planted.kind)
    assert re.fullmatch(rf"{planted.tensor}/\d", found.name)
    assert ranks.roots[2] != alone.roots[2]


def test_every_fault_is_planted() -> None:
    written = {f for f in vars(faults).values() if getattr(f, "__module__", "") == faults.__name__}
    assert {p.fault for p in FAULTS} == {f for f in written if not isinstance(f, type)}
