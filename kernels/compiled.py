"""What the operations' ``compiled.py`` share: their definitions through ``torch.compile``."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from kernels.support import Support

# Shapes that one function may be compiled for. Past it a call is an error: what dynamo does by
# default, to go on uncompiled, would change the bits in the middle of a run.
_SHAPES = 256


class Compiled:
    """A function that is compiled at its first call, forward and backward.

    The arithmetic depends on the shapes alone, never on the calls before: they are constants of
    the code (``varying`` false: each is compiled for), or none of them is (``varying``: one code
    for all, for functions of single numbers). Nothing is measured to choose the code.
    """

    def __init__(self, function: Callable[..., Any], *, varying: bool = False) -> None:
        self._function, self._varying = function, varying

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As the function."""
        return self._compiled(*arguments, **options)

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        settings: dict[str, Any] = {
            "fullgraph": True,
            "dynamic": self._varying,
            "options": {"deterministic": True},
            "recompile_limit": _SHAPES,
        }
        compiled: Callable[..., Any] = torch.compile(self._function, **settings)
        return compiled


def _lacks() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return (
            f"torch.compile needs a C++ compiler, and there is no {compiler}: install one, or name "
            "it in CXX"
        )
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        return "torch.compile needs Triton: pip install 'reforge-llm[triton]'"
    return None


# Not taken on a CPU, where each shape takes seconds to compile.
SUPPORT = Support(devices=("cpu", "cuda"), lacks=_lacks)
