"""A certificate is given of equal tensors alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megatron_core.conversion.certificate import compare_tensors
from megatron_core.conversion.megatron_names import megatron_links
from megatron_core.errors import IntegrityError
from tests.models import random_decoder, small_config, stored_weights


def flipped(tensor: Tensor) -> Tensor:
    """With the lowest bit of its last number changed."""
    bits = tensor.clone().view(torch.int32)
    bits.view(-1)[-1] ^= 1
    return bits.view(torch.float32)


def test_one_bit_of_any_tensor_is_enough() -> None:
    """On either side, of tensors that are moved whole, by groups, stacked and padded."""
    model = random_decoder(small_config())
    ours, links = stored_weights(model), megatron_links(model.config, 384)
    theirs = {link.theirs: link.join(ours) for link in links}
    assert {link.operation.name for link in links} == {"same", "grouped", "stacked", "padded"}
    assert len(compare_tensors(links, ours, theirs)) == len(links)
    for link in links:
        wrong = theirs | {link.theirs: flipped(theirs[link.theirs])}
        with pytest.raises(IntegrityError, match=f"{link.theirs} is not bitwise"):
            compare_tensors(links, ours, wrong)
    for name, tensor in ours.items():
        with pytest.raises(IntegrityError, match=f"is not bitwise.* {name}"):
            compare_tensors(links, ours | {name: flipped(tensor)}, theirs)
