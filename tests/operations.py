"""Which operations torch carries out, and at which shapes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Shapes = tuple[tuple[int, ...], ...]

ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"

# Of these a number's bits may depend on the shape.
PRODUCTS = (
    "mm", "addmm", "addmm_", "bmm", "baddbmm", ATTENTION, f"{ATTENTION}_backward",
)  # fmt: skip
# These make another view of the same memory.
VIEWS = (
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "split", "chunk",
    "unbind", "select", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "_reshape_alias",
    "split_with_sizes",
)  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts operations by name and by the shapes of their tensors, in the order of arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[tuple[str, Shapes]] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        shapes = tuple(tuple(x.shape) for x in args if isinstance(x, Tensor))
        self.counted[func.overloadpacket.__name__, shapes] += 1
        return func(*args, **(kwargs or {}))

    def products(self) -> Counter[tuple[str, Shapes]]:
        """Matrix products and attention."""
        return Counter({key: n for key, n in self.counted.items() if key[0] in PRODUCTS})

    def computed(self) -> Counter[str]:
        """By name alone, all that reads or writes memory."""
        found: Counter[str] = Counter()
        for (name, _), count in self.counted.items():
            if name not in VIEWS:
                found[name] += count
        return found


# What asks a tensor for its numbers, so that a GPU would be waited for; ``numpy`` is refused there.
_READS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
_READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive")


class Reads(TorchFunctionMode):
    """Where numbers of tensors are asked for: the innermost module of ours, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self._dispatched = _Dispatched(self)

    def __enter__(self) -> Self:
        super().__enter__()
        self._dispatched.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._dispatched.__exit__(*error)
        super().__exit__(*error)

    def note(self) -> None:
        """Somebody asks."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and not (
            frame.f_globals["__name__"].startswith(("megatron_core.", "kernels."))
        ):
            frame = frame.f_back
        self.places.append("elsewhere" if frame is None else frame.f_globals["__name__"])

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        moved = func is Tensor.to and "cpu" in [a for a in args if isinstance(a, str)]
        if moved or func in [getattr(Tensor, name) for name in _READS]:
            self.note()
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    """What the operations themselves ask for, as indexing with booleans does."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        chosen = [
            i
            for i in (args[1] if name in ("index", "index_put", "index_put_") else ())
            if i is not None
        ]
        if name in _READING or any(i.dtype == torch.bool for i in chosen):
            self.reads.note()
        return func(*args, **(kwargs or {}))
