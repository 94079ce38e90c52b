"""Which experts a token goes to, and how its rows are brought there and back.

Deterministic throughout: equal logits go to the lower expert, rows keep the order of their tokens,
and every sum over a token's experts is in the order of its choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kernels.precision import wide
from megatron_core.config import ExpertsConfig


@dataclass(frozen=True)
class Routing:
    """The choices of ``n`` tokens among ``e`` experts.

    Attributes:
        weights: fp32 ``[n, k]``, differentiable: what each chosen expert's result counts.
        experts: int64 ``[n, k]``, the most probable first.
        probabilities: fp32 ``[n, e]``, differentiable.
    """

    weights: Tensor
    experts: Tensor
    probabilities: Tensor


def route(logits: Tensor, config: ExpertsConfig) -> Routing:
    """The ``config.chosen`` most probable experts of each token (Shazeer et al., 2017).

    The softmax is over all experts; ``config.normalize`` makes the chosen ones' weights add up to
    one, as in Mixtral.

    Args:
        logits: fp32 ``[n, e]``.
    """
    probabilities = logits.softmax(dim=-1)
    # Of equal ones torch.topk promises none in particular; a stable sort the lower number.
    ranked = torch.sort(logits.detach(), dim=-1, descending=True, stable=True).indices
    experts = ranked[:, : config.chosen].contiguous()
    weights = probabilities.gather(1, experts)
    if config.normalize:
        weights = weights / weights.sum(dim=1, keepdim=True)
    return Routing(weights, experts, probabilities)


def balance_loss(probabilities: Tensor, fractions: Tensor) -> Tensor:
    """The load-balancing loss as a sum over tokens: fp32 scalar.

    Over the token count it is ``e · Σ fᵢ Pᵢ`` of Fedus et al. (2021): 1 when the load is even.

    Args:
        probabilities: fp32 ``[n, e]``.
        fractions: fp32 ``[e]``, the share of all choices that each expert got; no gradient.
    """
    return (probabilities * (len(fractions) * fractions)).sum()


def z_loss(logits: Tensor) -> Tensor:
    """The squares of the log-partition summed over tokens (Zoph et al., 2022): fp32 scalar.

    Args:
        logits: fp32 ``[n, e]``.
    """
    return logits.logsumexp(dim=-1).square().sum()


def attach(x: Tensor, loss: Tensor, scale: float) -> Tensor:
    """``x`` itself; its backward pass also starts that of ``scale · loss``.

    So a loss that arises in the middle of the model, on any stage of a pipeline, need not be
    carried to its end.
    """
    result: Tensor = _Attach.apply(x, loss, scale)  # type: ignore[no-untyped-call]
    return result


class _Attach(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.dtype = scale, loss.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, gradient.new_full((), ctx.scale, dtype=ctx.dtype), None


@dataclass(frozen=True)
class Assignment:
    """Rows, one for each choice of each token, sorted by expert and then by token.

    Attributes:
        order: int64 ``[n · k]``: the choice that each row is for, ``token · k + rank``.
        place: int64 ``[n, k]``: the row of each choice.
        counts: int64 ``[e]``: rows of each expert.
    """

    order: Tensor
    place: Tensor
    counts: Tensor


def assign(experts: Tensor, count: int) -> Assignment:
    """Sort the choices int64 ``[n, k]`` by expert, of ``count`` experts."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    return Assignment(order, order.argsort().view_as(experts), flat.bincount(minlength=count))


def dispatch(x: Tensor, order: Tensor, chosen: int) -> Tensor:
    """The rows ``[n · k, …]`` of tokens ``x [n, …]``; the gradient is ``combine`` without weights.

    Like ``combine`` for use within a ``Function``: autograd's own backward pass would add rows in
    an order that is not fixed.
    """
    return x.index_select(0, order // chosen)


def combine(rows: Tensor, place: Tensor, weights: Tensor | None = None) -> Tensor:
    """The fp32 sum ``[n, h]`` of each token's rows, in the order of its choices.

    Args:
        rows: ``[n · k, h]``.
        place: int64 ``[n, k]``.
        weights: fp32 ``[n, k]``; one each when left out.
    """
    total = wide(rows.new_zeros(len(place), rows.shape[1]))
    for rank in range(place.shape[1]):
        part = wide(rows.index_select(0, place[:, rank]))
        total += part if weights is None else part * weights[:, rank, None]
    return total
