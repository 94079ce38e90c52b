"""What the operations' ``triton.py`` share.

Block sizes and numbers of warps are constants or functions of the shape: an autotuner would choose
them by time, and the order of additions with them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from kernels.support import Support


def _imported(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec("triton") else None


triton, tl = _imported("triton"), _imported("triton.language")
# Triton reads it when it is imported, and then runs kernels as Python, on a CPU too.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# What a program holds of one tensor at a time.
NUMBERS = 4096


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``; without Triton the function itself, which nothing calls."""
    return function if triton is None else triton.jit(function)


def tile(width: int) -> tuple[int, int]:
    """How many rows of ``width`` numbers a program holds, and their padded width."""
    padded = power_of_two(width)
    return max(1, NUMBERS // padded), padded


def warps(numbers: int) -> int:
    """How many warps share ``numbers`` numbers."""
    return 4 if numbers <= 4096 else 8 if numbers <= 16384 else 16


def power_of_two(number: int) -> int:
    """The smallest that is not below ``number``."""
    return 1 << (number - 1).bit_length()


def blocks(count: int, size: int) -> int:
    """How many blocks of ``size`` cover ``count``."""
    return -(-count // size)


def rows_of(x: Tensor) -> Tensor:
    """``x [..., width]`` as ``[rows, width]`` with neighbouring columns; a view if it can be."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


# Triton's interpreter multiplies the bits of bf16 as if they were integers; fp32 holds the numbers.
_WIDE = INTERPRETED if tl is None else tl.constexpr(INTERPRETED)


@jit
def product(a, b):
    """``a @ b`` of tiles in fp32, exact products of fp32 included."""
    if _WIDE:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


def _lacks() -> str | None:
    return "it needs Triton: pip install 'reforge-llm[triton]'" if triton is None else None


# Never `auto`: no GPU has measured these kernels yet.
SUPPORT = Support(devices=("cuda", "cpu") if INTERPRETED else ("cuda",), lacks=_lacks)
