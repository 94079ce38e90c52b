"""The parameters of a model by tensor and grid shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from torch import Tensor, nn

from megatron_core.model.linear import Shards


@dataclass(frozen=True)
class GridShard:
    """One grid shard of a tensor, wherever it is.

    Attributes:
        tensor: Name of the whole tensor, such as ``layers.0.attention.query.weight``.
        shard: Number of the grid shard, 0 for a replicated tensor.
        shape: Of the whole tensor.
        axis: Dimension of the whole tensor that is cut, None for a replicated one.
        shards: Grid shards of the tensor.
        expert: Whether it belongs to one expert of a mixture.
        sliced: Whether each sequence slice gives a gradient of its own, as for norms.
    """

    tensor: str
    shard: int
    shape: tuple[int, ...]
    axis: int | None
    shards: int
    expert: bool
    sliced: bool

    @property
    def key(self) -> str:
        """Tensor and shard as one name."""
        return f"{self.tensor}/{self.shard}"

    def cut(self, whole: Tensor) -> Tensor:
        """This shard of the ``whole`` tensor, a view."""
        if self.axis is None:
            return whole
        return whole.chunk(self.shards, dim=self.axis)[self.shard]


@dataclass(frozen=True)
class ParameterShard:
    """A grid shard and the parameter that holds it here.

    Attributes:
        fp32: Whether it is kept in fp32 whatever the model computes in.
    """

    place: GridShard
    parameter: nn.Parameter
    fp32: bool = False

    @property
    def key(self) -> str:
        """Tensor and shard as one name."""
        return self.place.key


def parameter_shards(model: nn.Module) -> Iterator[ParameterShard]:
    """Every local parameter of ``model``, in the order of its modules."""
    for prefix, module in model.named_modules():
        if isinstance(module, Shards):
            for number, parameter in module.items():
                place = GridShard(
                    prefix, int(number), module.shape, module.axis, module.span.shards,
                    expert=module.expert, sliced=False,
                )  # fmt: skip
                yield ParameterShard(place, parameter, module.fp32)
        else:
            # A module whose input is the whole sequence says so; the others see slices of it.
            sliced = not getattr(module, "sees_whole_sequence", False)
            fp32 = getattr(module, "fp32", False)
            for name, parameter in module.named_parameters(recurse=False):
                place = GridShard(
                    f"{prefix}.{name}".lstrip("."), 0, tuple(parameter.shape), None, 1,
                    expert=False, sliced=sliced,
                )  # fmt: skip
                yield ParameterShard(place, parameter, fp32)


def load_parameters(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy the whole tensors that ``weights`` has into the local shards of ``model``.

    Each is asked for once and let go before the next. A tied one is its owner's, wherever that is.
    """
    tied: Mapping[str, str] = getattr(model, "tied", {})
    for tensor, shards in groupby(parameter_shards(model), key=lambda shard: shard.place.tensor):
        name = tied.get(tensor, tensor)
        if name in weights:
            whole = weights[name]
            for shard in shards:
                shard.parameter.data.copy_(shard.place.cut(whole))
