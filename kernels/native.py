"""C++ that is compiled where it runs, at its first use, by PyTorch's extension loader."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_HEADERS = Path(__file__).parent
# Errors of libm need no number, and a loop need not end in one: neither moves a bit.
_FLAGS = ("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
# A product and a sum may be rounded once, where the compiler likes, or always twice.
FUSED, APART = "-ffp-contract=fast", "-ffp-contract=off"


def lacks() -> str | None:
    """What is missing to compile, and how to install it; None if nothing."""
    if shutil.which("ninja", path=_programs()) is None:
        return "ninja is not installed: pip install ninja"
    if shutil.which(os.environ.get("CXX", "c++"), path=_programs()) is None:
        return "there is no C++ compiler: install g++, for example apt-get install g++"
    return None


@functools.cache
def built(source: Path, products: str = APART) -> ctypes.CDLL:
    """``source`` compiled for this processor; a folder of its own holds what came of it.

    ``products`` are ``FUSED`` only where no number's bits can depend on its place in a loop.

    The folder is in PyTorch's cache of extensions. Of several processes one compiles and the others
    wait; one that is killed meanwhile leaves nothing that has to be cleared away.

    Raises:
        RuntimeError: It does not compile; has what the compiler said.
    """
    from torch.utils import cpp_extension

    flags = [*_FLAGS, products, *_instructions()]
    content = [source, *sorted(_HEADERS.glob("*.h"))]
    known = hashlib.blake2b(" ".join(flags).encode(), digest_size=8)
    for path in content:
        known.update(path.read_bytes())
    name = f"reforge_{source.stem}_{known.hexdigest()}"
    folder = Path(cpp_extension._get_build_directory(name, verbose=False))
    with (folder / "turn").open("w") as turn:
        # Whoever has the turn is alone: the loader's own lock is then one that a dead process left.
        fcntl.flock(turn, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        before = os.environ.get("PATH", "")
        os.environ["PATH"] = _programs()
        try:
            loaded = cpp_extension.load(
                name,
                [str(source)],
                extra_cflags=flags,
                extra_ldflags=["-fopenmp"],
                extra_include_paths=[str(_HEADERS)],
                is_python_module=False,
                build_directory=str(folder),
            )
        finally:
            os.environ["PATH"] = before
    return ctypes.CDLL(loaded)


def address(x: Tensor | None) -> int | None:
    """Of the first number, or none."""
    return None if x is None else x.data_ptr()


def addresses(*tensors: Tensor) -> ctypes.Array[ctypes.c_void_p]:
    """Of the first number of each."""
    return (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))


def extent(x: Tensor) -> tuple[ctypes.c_long, ctypes.c_long, ctypes.c_long]:
    """Rows of ``x [..., width]``, their width, and the threads to compute with."""
    width = x.shape[-1]
    rows = x.numel() // max(1, width)
    return ctypes.c_long(rows), ctypes.c_long(width), ctypes.c_long(torch.get_num_threads())


class Strided(ctypes.Structure):
    """A tensor of up to four dimensions."""

    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_long * 4))

    @classmethod
    def of(cls, x: Tensor) -> Strided:
        return cls(x.data_ptr(), (ctypes.c_long * 4)(*x.stride()))


def strided(tensors: Sequence[Tensor]) -> ctypes.Array[Strided]:
    return (Strided * len(tensors))(*(Strided.of(x) for x in tensors))


def _programs() -> str:
    """Where they are looked for: also beside Python, whose environment need not be activated."""
    found = [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    return os.pathsep.join(found)


def _instructions() -> Sequence[str]:
    """Those that torch uses here, so that the bits depend on nothing else of the processor."""
    known = {"AVX2": ["-march=x86-64-v3"], "AVX512": ["-march=x86-64-v4"]}
    return known.get(torch.backends.cpu.get_cpu_capability(), [])
