"""Products of 8-bit floats with a scale for every 32 that are summed (Rouhani et al., 2023).

Inputs, weights and gradients all have four bits of exponent: blocks of 32 need no more. All sizes
must be multiples of 32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.linear.transformer_engine import Products
from kernels.support import Support
from kernels.te import lacks

SUPPORT = Support(devices=("cuda",), dtypes=(torch.bfloat16,), lacks=partial(lacks, "mxfp8"))


def _scaled(x: Tensor, columns: bool, gradient: bool) -> Any:
    from transformer_engine.pytorch import MXFP8Quantizer
    from transformer_engine.pytorch.constants import TE_DType

    kind = TE_DType[torch.float8_e4m3fn]
    quantizer = MXFP8Quantizer(kind, rowwise=not columns, columnwise=columns)
    quantizer.internal = True
    return quantizer(x.contiguous())


_PRODUCTS = Products(_scaled)
linear = _PRODUCTS.linear
input_gradient = _PRODUCTS.input_gradient
add_weight_gradient = _PRODUCTS.add_weight_gradient
