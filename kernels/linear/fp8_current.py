"""Products of 8-bit floats, scaled matrix by matrix (Micikevicius et al., 2022).

The scale is from the largest value of the matrix at hand, "current scaling": nothing is remembered
from one product to the next, so a resumed run needs no more than the weights. Inputs and weights
have four bits of exponent, gradients five. All sizes must be multiples of 16.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.linear.transformer_engine import Products
from kernels.support import Support
from kernels.te import lacks

SUPPORT = Support(devices=("cuda",), dtypes=(torch.bfloat16,), lacks=partial(lacks, "fp8"))


def _scaled(x: Tensor, columns: bool, gradient: bool) -> Any:
    from transformer_engine.pytorch import Float8CurrentScalingQuantizer
    from transformer_engine.pytorch.constants import TE_DType

    kind = TE_DType[torch.float8_e5m2 if gradient else torch.float8_e4m3fn]
    # The library makes no transposed copy without the plain one.
    quantizer = Float8CurrentScalingQuantizer(kind, x.device, rowwise=True, columnwise=columns)
    quantizer.internal = True
    return quantizer(x.contiguous())


_PRODUCTS = Products(_scaled)
linear = _PRODUCTS.linear
input_gradient = _PRODUCTS.input_gradient
add_weight_gradient = _PRODUCTS.add_weight_gradient
