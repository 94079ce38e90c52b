"""The Gaussian error linear unit (Hendrycks and Gimpel, 2016)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor, *, tanh: bool) -> Tensor:
    """``x`` times the share of a standard normal below it; by a tanh, as GPT-2 has it, if asked."""
    return F.gelu(x, approximate="tanh" if tanh else "none")
