"""What C++ adds: tiles, threads, and a library that several processes compile at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import native
from kernels.attention import cpp, reference

pytestmark = pytest.mark.skipif(native.lacks() is not None, reason=str(native.lacks()))


def compare(query: Tensor, key: Tensor, value: Tensor, **kinds: object) -> None:
    """Values and gradients, against the reference in float64."""
    ours = [x.detach().requires_grad_() for x in (query, key, value)]
    exact = [x.detach().double().requires_grad_() for x in (query, key, value)]
    result = cpp.attention(*ours, **kinds)  # type: ignore[arg-type]
    expected = reference.attention(*exact, **kinds)  # type: ignore[arg-type]
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
    result.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    for x, wanted in zip(ours, exact, strict=True):
        assert x.grad is not None
        assert wanted.grad is not None
        torch.testing.assert_close(x.grad.double(), wanted.grad, rtol=2e-5, atol=2e-5)


def draw(length: int, keys: int, batch: int, heads: int, kv_heads: int, size: int) -> list[Tensor]:
    """As the model has them: parts of the columns of one tensor, of any scale."""
    generator = torch.Generator().manual_seed(length * 1009 + keys)
    columns = [heads * size, kv_heads * size, kv_heads * size]
    rows = torch.randn(keys, batch, sum(columns), generator=generator)
    query, key, value = (x.unflatten(-1, (-1, size)) for x in rows.split(columns, dim=-1))
    return [query[keys - length :] * 2, key, value]


@settings(max_examples=40)
@given(
    length=st.integers(8, 130),
    more=st.sampled_from([0, 0, 1, 47, 100]),
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    size=st.sampled_from([1, 8, 20, 32, 64, 80, 128]),
    kind=st.sampled_from(["causal", "full", "window", "seen"]),
    window=st.integers(1, 150),
)
@example(length=300, more=0, batch=1, kv_heads=1, groups=1, size=64, kind="causal", window=1)
@example(length=200, more=90, batch=1, kv_heads=1, groups=2, size=16, kind="window", window=97)
def test_attention_in_tiles_is_attention(
    length: int,
    more: int,
    batch: int,
    kv_heads: int,
    groups: int,
    size: int,
    kind: str,
    window: int,
) -> None:
    keys = length + more
    x = draw(length, keys, batch, kv_heads * groups, kv_heads, size)
    seen = None
    if kind == "seen":
        chance = torch.rand(batch, length, keys, generator=torch.Generator().manual_seed(window))
        seen = chance < 0.3
        seen[..., window % keys] = True
    compare(*x, causal=kind != "full", window=window if kind == "window" else None, seen=seen)


def test_attention_to_large_scores_is_finite() -> None:
    query, key, value = draw(60, 60, 1, 2, 2, 32)
    mixed = cpp.attention(query * 1e4, key * 1e4, value, causal=True)
    exact = reference.attention(
        query.double() * 1e4, key.double() * 1e4, value.double(), causal=True
    )
    torch.testing.assert_close(mixed.double(), exact, rtol=1e-3, atol=1e-3)


def test_what_is_not_a_number_is_not_hidden() -> None:
    query, key, value = draw(60, 60, 1, 2, 2, 32)
    query[30, 0, 1, 5] = torch.nan
    mixed = cpp.attention(query, key, value, causal=True)
    assert mixed[30, 0, 1].isnan().all()
    assert mixed.isnan().sum() == 32


def test_no_bit_depends_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        x = [part.detach().requires_grad_() for part in draw(150, 150, 3, 4, 2, 32)]
        mixed = cpp.attention(*x, causal=True)
        mixed.backward(mixed.detach())
        results.append([mixed.detach(), *(part.grad for part in x)])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))  # type: ignore[arg-type]


SOURCE = 'extern "C" int answer() { return 42; }\n'
ASK = (
    "import sys, pathlib\nfrom kernels import native\n"
    "print(native.library(pathlib.Path(sys.argv[1])).answer())"
)


def ask(source: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(source.parent / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", ASK, str(source)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    source = tmp_path / "answer.cpp"
    source.write_text(SOURCE)
    for process in [ask(source) for _ in range(2)]:
        output, errors = process.communicate(timeout=120)
        assert output.strip().endswith("42"), errors
    assert len([*tmp_path.glob("cache/*/*.so")]) == 1


def test_a_killed_compilation_does_not_stop_the_next(tmp_path: Path) -> None:
    source = tmp_path / "answer.cpp"
    source.write_text(SOURCE)
    first = ask(source)
    limit = time.monotonic() + 60
    while not [*tmp_path.glob("cache/*/lock")] and time.monotonic() < limit:
        time.sleep(0.001)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert [*tmp_path.glob("cache/*/lock")], "it was not killed while it compiled"
    output, errors = ask(source).communicate(timeout=120)
    assert output.strip().endswith("42"), errors


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "install g++" in str(native.lacks())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "pip install ninja" in str(native.lacks())


def test_a_source_that_does_not_compile_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    source = tmp_path / "wrong.cpp"
    source.write_text("int answer() { return nothing; }\n")
    with pytest.raises(RuntimeError, match="nothing"):
        native.library(source)
