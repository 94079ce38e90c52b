"""Low-rank changes of matrices (Hu et al., 2022).

A changed matrix is ``W + alpha / rank · B A``. It is computed when ``A`` or ``B`` change, once a
step, and what computes with the model computes with the sum: the model that is trained and the
one that is left when the change has been merged are the same to the bit, in any precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kernels.precision import wide
from megatron_core.config import LoraConfig
from megatron_core.model.linear import Shards, Split


class Lora(nn.Module):
    """The change of one matrix ``[out, in]``: ``a [rank, in]`` and ``b [out, rank]``.

    The factor that has the matrix's cut dimension is cut with it. The other gets a gradient from
    each tensor shard, as norms do from each sequence slice.
    """

    fp32 = True  # whatever the model computes in

    def __init__(self, layer: Split, config: LoraConfig) -> None:
        """``layer`` computes with the sum from now on; its weights must be loaded."""
        super().__init__()
        (rows, columns), axis = layer.weight.shape, layer.weight.axis
        span, rank = layer.weight.span, config.rank
        self.span, self.axis, self.scale = span, axis, config.alpha / rank
        self.a: Shards | nn.Parameter
        self.b: Shards | nn.Parameter
        if axis == 0:
            self.a = nn.Parameter(torch.empty(rank, columns))
            self.b = Shards((rows, rank), 0, span, fp32=True)
        else:
            self.a = Shards((rank, columns), 1, span, fp32=True)
            self.b = nn.Parameter(torch.empty(rows, rank))
        self._weights = layer.shards
        for number, weight in enumerate(self._weights):
            self.register_buffer(f"base{number}", weight.data, persistent=False)
            weight.data = torch.empty_like(weight.data)

    def cast(self, dtype: torch.dtype) -> None:
        """Keep the unchanged matrix in the dtype that the model computes in."""
        for number in range(len(self._weights)):
            base = self.get_buffer(f"base{number}")
            self.register_buffer(f"base{number}", base.to(dtype), persistent=False)

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        """The local shards of the changed matrix."""
        return self._weights

    def _factors(self, number: int) -> tuple[nn.Parameter, nn.Parameter]:
        """Those of local shard ``number``."""
        a = self.a.local[number] if isinstance(self.a, Shards) else self.a
        b = self.b.local[number] if isinstance(self.b, Shards) else self.b
        return a, b

    @torch.no_grad()
    def merge(self) -> None:
        """Compute the changed matrix."""
        for number, weight in enumerate(self._weights):
            a, b = self._factors(number)
            weight.copy_(merged(self.get_buffer(f"base{number}"), a, b, self.scale))

    @torch.no_grad()
    def gradients(
        self, number: int, gradient: Tensor, x: Tensor
    ) -> Iterator[tuple[nn.Parameter, Tensor, int]]:
        """Each factor's gradient from local shard ``number``, and which slice's it is.

        Args:
            gradient: ``[..., out]`` of the shard's output.
            x: ``[..., in]``, its input.
        """
        a, b = self._factors(number)
        outer, inner = wide(gradient.flatten(0, -2)), wide(x.flatten(0, -2))
        for factor, own, found in (
            (a, self.a, (outer @ b).T @ inner),
            (b, self.b, outer.T @ (inner @ a.T)),
        ):
            yield factor, found * self.scale, 0 if isinstance(own, Shards) else number


def merged(base: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """``base + scale · b a`` in the dtype of ``base [out, in]``; the sum is fp32."""
    return (wide(base) + wide(b) @ wide(a) * scale).to(base.dtype)


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Change the matrices of ``model`` that ``config`` names."""
    for prefix, layer in list(model.named_modules()):
        named = prefix.rpartition(".")[2] in config.matrices
        # An expert's rows come from several ranks, and its matrices stay as they are.
        if isinstance(layer, Split) and named and not layer.weight.expert:
            layer.add_module("lora", Lora(layer, config))


def changed_matrices(model: nn.Module) -> dict[nn.Parameter, tuple[Lora, int]]:
    """Of each local shard of a changed matrix, its change and the number of the shard there."""
    return {
        weight: (module, number)
        for module in model.modules()
        if isinstance(module, Lora)
        for number, weight in enumerate(module.weights)
    }
