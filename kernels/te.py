"""NVIDIA's Transformer Engine, an optional library: whether it can be used here."""

from __future__ import annotations

import importlib
import os

import torch
from torch import Tensor

# cuBLAS may choose another algorithm for operands at addresses of another alignment, in bytes.
_ALIGNMENT = 256


def lacks(scaling: str | None = None) -> str | None:
    """What hinders it, and what to do; None if nothing.

    Args:
        scaling: Of numbers in 8 bits, ``fp8`` or ``mxfp8``, if they are to be used.
    """
    try:
        engine = importlib.import_module("transformer_engine.pytorch")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("transformer_engine"):
            return "it is not installed: run `pip install 'reforge-llm[te]'`"
        return f"Transformer Engine cannot be loaded: {error}"
    except (ImportError, OSError, RuntimeError) as error:
        return f"Transformer Engine cannot be loaded: {error}"
    if not torch.cuda.is_available():
        return "it needs CUDA, and there is no GPU here"
    if scaling is None:
        return None
    able, reason = getattr(engine, f"is_{scaling}_available")(return_reason=True)
    return None if able else str(reason)


def lacks_determinism() -> str | None:
    """As :func:`lacks`, of attention, whose backward pass has a kind that adds in any order."""
    if found := lacks():
        return found
    if os.environ.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == "0":
        return None
    return (
        "its bits differ from run to run unless NVTE_ALLOW_NONDETERMINISTIC_ALGO=0 is in the "
        "environment of every rank"
    )


def placed(x: Tensor) -> Tensor:
    """``x`` contiguous and at an address of which no algorithm depends; itself if it is so."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % _ALIGNMENT else x
