"""Loops that become machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """``function`` of numbers and numpy arrays, compiled with numba when it is first called.

    The code is kept on disk beside the module, so each installation compiles once. It is made
    anew when the module's file changes, not when another one does: so compiled functions call
    those of their own module alone. Integers wrap as in C; an array is not checked for its bounds.
    """
    return cast(Function, numba.njit(cache=True)(function))
