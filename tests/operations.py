"""Which operations torch carries out, and at which shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
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
