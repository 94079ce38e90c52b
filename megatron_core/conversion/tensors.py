"""Which of our tensors are which of theirs, and by what operation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megatron_core.config import ModelConfig
from megatron_core.errors import ReforgeError
from megatron_core.model import LanguageModel, parameter_shards

Shape = tuple[int, ...]


class Operation(Protocol):
    """Moves elements between tensors of ours and one of theirs; none is changed."""

    @property
    def name(self) -> str:
        """For the certificate."""
        ...

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Theirs from ours."""
        ...

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """Ours, of ``shapes``, from theirs."""
        ...


@dataclass(frozen=True)
class Same:
    """One tensor, as it is."""

    name: str = "same"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0]

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [whole]


@dataclass(frozen=True)
class Transposed:
    """Ours one below the other, a matrix then ``[in, out]``, as in GPT-2's ``Conv1D``."""

    name: str = "transposed"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        whole = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        return whole.t().contiguous()  # of one dimension: itself

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return list(torch.split(whole.t(), [shape[0] for shape in shapes]))


@dataclass(frozen=True)
class Stacked:
    """Ours one below the other."""

    name: str = "stacked"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return list(torch.split(whole, [shape[0] for shape in shapes]))


@dataclass(frozen=True)
class Grouped:
    """Queries, keys and values of one group of heads after those of the other: [q…q, k, v]."""

    groups: int
    name: str = "grouped"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        by_group = [part.reshape(self.groups, -1, *part.shape[1:]) for part in parts]
        return torch.cat(by_group, dim=1).flatten(0, 1)

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        rows = [shape[0] // self.groups for shape in shapes]
        by_group = whole.reshape(self.groups, -1, *whole.shape[1:])
        return [part.flatten(0, 1) for part in torch.split(by_group, rows, dim=1)]


@dataclass(frozen=True)
class Interleaved:
    """Of each head the rows that a rotary position turns together, i and i + size / 2, in pairs."""

    heads: int
    name: str = "interleaved"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        (part,) = parts
        return part.reshape(self.heads, 2, -1, *part.shape[1:]).transpose(1, 2).reshape(part.shape)

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        pairs = whole.reshape(self.heads, -1, 2, *whole.shape[1:])
        return [pairs.transpose(1, 2).reshape(whole.shape)]


@dataclass(frozen=True)
class Padded:
    """Rows of zeros below ours, up to ``rows``."""

    rows: int
    name: str = "padded"

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        (part,) = parts
        return torch.cat([part, part.new_zeros(self.rows - part.shape[0], *part.shape[1:])])

    def split(self, whole: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        return [whole[: shapes[0][0]]]


@dataclass(frozen=True)
class TensorRule:
    """Modules of ours, and what theirs is called.

    In both names ``{layer}`` and ``{expert}`` stand for numbers. ``.weight`` and ``.bias`` follow
    the names of ours, and those of theirs too unless one has a name of its own there.

    Attributes:
        ours: Modules whose tensors make one of theirs.
        weight: Their weight; empty where there is none.
        bias: Their bias; empty where there is none.
        operation: From ours to theirs.
    """

    ours: tuple[str, ...]
    weight: str
    bias: str
    operation: Operation


def rule(
    ours: str | tuple[str, ...],
    theirs: str,
    operation: Operation | None = None,
    *,
    bias: str | None = None,
) -> TensorRule:
    """Ours are theirs; of one with another name for its ``bias``, ``theirs`` is the weight's."""
    modules = (ours,) if isinstance(ours, str) else ours
    operation = operation or (Same() if len(modules) == 1 else Stacked())
    if bias is not None:
        return TensorRule(modules, theirs, bias, operation)
    return TensorRule(modules, f"{theirs}.weight", f"{theirs}.bias", operation)


@dataclass(frozen=True)
class Link:
    """Tensors of ours that are one of theirs.

    Attributes:
        theirs: Name there.
        ours: Names here.
        shapes: Of ours.
        operation: From ours to theirs.
    """

    theirs: str
    ours: tuple[str, ...]
    shapes: tuple[Shape, ...]
    operation: Operation

    @property
    def shape(self) -> Shape:
        """Of theirs."""
        return tuple(
            self.operation.join([torch.empty(s, device="meta") for s in self.shapes]).shape
        )

    def join(self, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """Theirs, in ``dtype``, from ours; ReforgeError where one has another shape."""
        parts = [weights[name] for name in self.ours]
        for name, part, shape in zip(self.ours, parts, self.shapes, strict=True):
            if tuple(part.shape) != shape:
                raise ReforgeError(f"{name} is {list(part.shape)}, not {list(shape)}")
        parts = parts if dtype is None else [part.to(dtype) for part in parts]
        return self.operation.join(parts).contiguous()

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        """Ours from theirs."""
        return dict(zip(self.ours, self.operation.split(whole, self.shapes), strict=True))


class Converted(Mapping[str, Tensor]):
    """Our tensors, each made of theirs when it is asked for, in fp32."""

    def __init__(self, links: Iterable[Link], theirs: Mapping[str, Tensor]) -> None:
        self._links = {name: link for link in links for name in link.ours}
        self._theirs = theirs
        self._last: tuple[str, dict[str, Tensor]] = "", {}

    def __getitem__(self, name: str) -> Tensor:
        link = self._links[name]
        theirs, parts = self._last  # those of one tensor are asked for one after the other
        if theirs != link.theirs or name not in parts:
            self._last = "", {}
            parts = link.split(self._theirs[link.theirs])
            self._last = link.theirs, parts
        return parts.pop(name).to(torch.float32).contiguous()

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __len__(self) -> int:
        return len(self._links)


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """The shape of each stored tensor of the model by its name; tied ones under their owner."""
    with torch.device("meta"):
        model = LanguageModel(config)
    shards = parameter_shards(model)
    return {s.place.tensor: s.place.shape for s in shards if s.place.tensor not in model.tied}


def check_names(weights: Mapping[str, Tensor], links: Iterable[Link]) -> None:
    """Check that ``weights`` are those of the links, no more and no less.

    Raises:
        ReforgeError: naming each tensor that is missing or unknown.
    """
    wanted = {name for link in links for name in link.ours}
    problems = [f"{name} is missing" for name in sorted(wanted - weights.keys())]
    problems += [f"{name} is no part of the model" for name in sorted(weights.keys() - wanted)]
    if problems:
        raise ReforgeError(
            "the checkpoint does not fit its configuration:\n  " + "\n  ".join(problems)
        )


def link_tensors(config: ModelConfig, rules: Iterable[TensorRule], where: str) -> list[Link]:
    """What each tensor of the model is called in ``where``, from the input to the output.

    Raises:
        ReforgeError: naming each tensor that has no counterpart there.
    """
    by_module = {module: rule for rule in rules for module in rule.ours}
    shapes = tensor_shapes(config)
    links: dict[str, Link] = {}
    lost = []
    for name in shapes:
        template, numbers = _template(name)
        module, _, kind = template.rpartition(".")
        found = by_module.get(module)
        theirs = "" if found is None else found.weight if kind == "weight" else found.bias
        ours = () if found is None else tuple(
            f"{module.format(**numbers)}.{kind}" for module in found.ours
        )  # fmt: skip
        if found is None or not theirs or any(part not in shapes for part in ours):
            lost.append(name)
            continue
        theirs = theirs.format(**numbers)
        if theirs not in links:
            links[theirs] = Link(theirs, ours, tuple(shapes[n] for n in ours), found.operation)
    if lost:
        raise ReforgeError(f"{where} has no place for {', '.join(lost)}")
    return list(links.values())


_NUMBERED = re.compile(r"\b(layer|expert)s\.(\d+)\.")


def _template(name: str) -> tuple[str, dict[str, str]]:
    """``name`` with its numbers taken out: ``layers.{layer}.…``, and the numbers."""
    numbers = dict(_NUMBERED.findall(name))
    return _NUMBERED.sub(lambda found: f"{found[1]}s.{{{found[1]}}}.", name), numbers
