"""One pass over memory: see ``adamw.cpp``."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from kernels import native
from kernels.adamw import reference
from kernels.support import Support

SUPPORT = Support(devices=("cpu",), dtypes=(torch.float32,), automatic=("cpu",), lacks=native.lacks)


@torch.no_grad()
def adamw_step(
    weight: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """As the reference, which takes the step of tensors that are not contiguous fp32."""
    tensors = (weight, gradient, first, second)
    if not all(x.is_contiguous() and x.dtype == torch.float32 for x in tensors):
        reference.adamw_step(
            *tensors, step=step, learning_rate=learning_rate, beta1=beta1, beta2=beta2,
            epsilon=epsilon, weight_decay=weight_decay,
        )  # fmt: skip
        return
    numbers = (
        1.0 - learning_rate * weight_decay, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon,
        (1.0 - beta2**step) ** -0.5, learning_rate / (1.0 - beta1**step),
    )  # fmt: skip
    _library().adamw_step(
        ctypes.c_long(weight.numel()),
        ctypes.c_long(torch.get_num_threads()),
        native.addresses(*tensors),
        (ctypes.c_double * len(numbers))(*numbers),
    )


def _library() -> ctypes.CDLL:
    return native.built(Path(__file__).with_name("adamw.cpp"))
