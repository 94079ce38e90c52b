"""How well an encoder finds what is hidden, on held-out sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.model import Documents, LanguageModel, Place, Segments
from megatron_core.parallel.batch import Batch
from megatron_core.trainer.language import MaskedObjective


@dataclass(frozen=True)
class MaskedScore:
    """What was found of one sequence.

    Attributes:
        loss: Summed over the hidden tokens, in nats.
        right: Hidden tokens that are the likeliest by the model.
        hidden: How many are hidden.
        pair: Whether it knows which kind of pair the segments are; None where there are none.
    """

    loss: float
    right: int
    hidden: int
    pair: bool | None


@torch.no_grad()
def masked_scores(model: LanguageModel, objective: MaskedObjective) -> list[MaskedScore]:
    """Of the sequences that training validates on, each computed alone.

    Args:
        model: A whole encoder.
        objective: What it is asked; its held-out sequences are.
    """
    model.eval()
    return [_score(model, make()) for make in objective.heldout(1, 1)]


def _score(model: LanguageModel, batch: Batch) -> MaskedScore:
    device = next(model.parameters()).device

    def columns(x: Tensor) -> Tensor:
        return x.T.to(device)

    place = Place(
        documents=None if batch.documents is None else Documents.of(columns(batch.documents)),
        segments=None if batch.types is None else Segments(columns(batch.types)),
    )
    (x,) = model.blocks(model.embed([columns(batch.tokens)], [place]), [place])
    (x,) = model.normed([x], [place])
    logits = torch.cat(model.scores(x, place), dim=-1)[:, 0].double().cpu()
    targets = batch.targets[0]
    hidden = targets != IGNORED
    logits, targets = logits[hidden], targets[hidden]
    pair = None
    if batch.labels is not None:
        pair = int(model.pair_scores(x, place).argmax()) == int(batch.labels[0])
    return MaskedScore(
        float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum")),
        int((logits.argmax(dim=-1) == targets).sum()), len(targets), pair,
    )  # fmt: skip
