"""Which backend computes each operation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from megatron_core.config.section import Section

Backend = Literal[
    "auto", "reference", "blocked", "cpp", "compiled", "triton", "transformer_engine"
]  # fmt: skip

# Those of products of 8-bit numbers, and what all sizes must be multiples of.
EIGHT_BITS = {"fp8_current": 16, "mxfp8": 32}


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
    linear: Backend | Literal["fp8_current", "mxfp8"] | None = Field(
        None,
        description="Backend of the matrices of attention and feed-forward layers; fp8_current "
        "and mxfp8 multiply 8-bit numbers, scaled by tensor or by 32; null is the default",
    )
    linear_cross_entropy: Backend | None = _of("the head and its loss")
    rms_norm: Backend | None = _of("RMSNorm")
    rotary: Backend | None = _of("rotary positions")
    swiglu: Backend | None = _of("SwiGLU")

    @field_validator("linear", mode="before")
    @classmethod
    def _remembers_nothing(cls, value: object) -> object:
        if value == "fp8_delayed":
            raise ValueError(
                "delayed scaling is not offered: its history of largest values would be state "
                "that changes bits and is in no checkpoint; use fp8_current"
            )
        return value

    @property
    def named(self) -> dict[str, str]:
        """Backends of the operations that have one of their own."""
        return self.model_dump(exclude={"default"}, exclude_none=True)
