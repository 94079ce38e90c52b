"""Transformer Engine's norm: one pass over the input each way, rounded once."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from kernels.support import Support
from kernels.te import lacks, placed

SUPPORT = Support(devices=("cuda",), lacks=lacks)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As the reference."""
    result: Tensor = _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        from transformer_engine.pytorch.constants import TE_DType
        from transformer_engine_torch import rmsnorm_fwd

        rows, weight = placed(x.reshape(-1, x.shape[-1])), placed(weight)
        kind = TE_DType[x.dtype]
        result, _, scale = rmsnorm_fwd(rows, weight, epsilon, None, None, kind, 0, False)
        ctx.save_for_backward(rows, weight, scale)
        return result.view(x.shape)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        from transformer_engine_torch import rmsnorm_bwd

        rows, weight, scale = ctx.saved_tensors
        given = placed(gradient.reshape(rows.shape))
        own, of_weight = rmsnorm_bwd(given, rows, scale, weight, 0, False)
        return own.view(gradient.shape), of_weight, None
