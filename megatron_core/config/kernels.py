"""Which backend computes each operation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_core.config.section import Section

Backend = Literal[
    "auto", "reference", "blocked", "cpp", "compiled", "triton", "transformer_engine"
]  # fmt: skip


def _of(operation: str) -> Backend | None:
    found: Backend | None = Field(None, description=f"Backend of {operation}; null is the default")
    return found


class KernelsConfig(Section):
    """Backends by operation. They can change bits, so the chosen ones are part of a run."""

    default: Backend = Field(
        "auto",
        description="Backend of operations that have it and are not named; "
        "auto takes the fastest that is here",
    )
    adamw: Backend | None = _of("the optimizer's update")
    attention: Backend | None = _of("attention")
    gelu: Backend | None = _of("GELU")
    layer_norm: Backend | None = _of("LayerNorm")
    linear_cross_entropy: Backend | None = _of("the head and its loss")
    rms_norm: Backend | None = _of("RMSNorm")
    rotary: Backend | None = _of("rotary positions")
    swiglu: Backend | None = _of("SwiGLU")

    @property
    def named(self) -> dict[str, Backend]:
        """Backends of the operations that have one of their own."""
        return self.model_dump(exclude={"default"}, exclude_none=True)
