"""Models of transformers with our weights, and arithmetic in float64 on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from megatron_core.config import ModelConfig
from megatron_core.conversion.family import Family
from megatron_core.parallel import backends
from megatron_core.parallel.batch import Batch
from megatron_core.trainer.examples import Examples


@contextmanager
def double_for_single() -> Iterator[None]:
    """Whatever asks for fp32 in here, in our code or transformers', gets float64.

    Rotary angles stay the fp32 numbers that they are on both sides.
    """
    single, softmax, narrow = torch.float32, nn.functional.softmax, Tensor.float
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setitem(backends.DTYPES, "fp32", torch.float64)
        patch.setattr(
            nn.functional, "softmax",
            lambda x, dim=None, dtype=None, **_: softmax(x, dim=dim),
        )  # fmt: skip
        patch.setattr(
            Tensor, "float", lambda x: x if x.dtype == torch.float64 else narrow(x.to(single))
        )
        yield


@contextmanager
def double_by_default() -> Iterator[None]:
    """Also what asks for no dtype gets float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with double_for_single():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def in_double(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """``model`` in float64, also where its code says fp32: in norms, softmaxes and routers."""
    with double_for_single():
        yield model.double()


def give_weights(
    theirs: nn.Module, family: Family, config: ModelConfig, weights: Mapping[str, Tensor]
) -> set[str]:
    """Copy ours into their parameters; the names of those that have none of ours."""
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for link in family.links(config):
            if link.theirs in parameters:
                parameters.pop(link.theirs).copy_(link.join(weights))
    return set(parameters)


def their_gradients(theirs: nn.Module, family: Family, config: ModelConfig) -> dict[str, Tensor]:
    """Under our names, of all that have one."""
    found = dict[str, Tensor]()
    parameters = dict(theirs.named_parameters())
    for link in family.links(config):
        parameter = parameters.get(link.theirs)
        if parameter is not None and parameter.grad is not None:
            found |= link.split(parameter.grad)
    return found


def taken(made: Examples, rows: Sequence[int]) -> Batch:
    """Examples by number, apart from the code that reads them in training."""
    each = [row * made.together + k for row in rows for k in range(made.together)]
    return Batch(
        made.tokens[each], made.targets[each] if made.by_position else made.targets[..., each],
        len(rows), documents=made.documents[each],
        types=None if made.types is None else made.types[each],
    )  # fmt: skip
