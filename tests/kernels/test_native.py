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

from kernels import native, registry
from kernels.attention import cpp, reference
from kernels.rotary import rotary_table

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
@example(length=130, more=1, batch=1, kv_heads=1, groups=1, size=8, kind="causal", window=1)
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


@pytest.mark.parametrize("operation", ["adamw", "layer_norm", "rms_norm", "rotary", "swiglu"])
def test_no_bit_of_a_row_depends_on_threads_or_on_its_neighbours(operation: str) -> None:
    """Of rows whose width is no multiple of a vector's, and of many chunks."""
    results = []
    before = torch.get_num_threads()
    for threads, rows in ((1, 1300), (2, 1300), (3, 1300), (2, 700)):
        torch.set_num_threads(threads)
        results.append([x[:700] for x in run(operation, rows, 26)])
    torch.set_num_threads(before)
    for other in results[1:3]:
        assert all(map(torch.equal, results[0], other))
    if operation != "rms_norm" and operation != "layer_norm":
        assert all(map(torch.equal, results[0], results[3]))


def run(operation: str, rows: int, width: int) -> list[Tensor]:
    """A result of ``[rows, …]`` and the gradients of ``[rows, …]`` and of weights."""
    generator = torch.Generator().manual_seed(0)
    kernels = registry.load({operation: "cpp"})
    x, other = torch.randn(2, 1300, 1, 1, width, generator=generator)[:, :rows]
    weight, bias = torch.randn(2, width, generator=generator)
    if operation == "adamw":
        moments = [torch.zeros_like(x).contiguous(), torch.ones_like(x).contiguous()]
        x = x.contiguous()
        kernels.adamw_step(
            x, other.contiguous(), *moments, step=2, learning_rate=0.1, beta1=0.9, beta2=0.95,
            epsilon=1e-8, weight_decay=0.1,
        )  # fmt: skip
        return [x, *moments]
    inputs = {
        "layer_norm": [x, weight, bias],
        "rms_norm": [x, weight],
        "rotary": [x],
        "swiglu": [x, other],
    }[operation]
    inputs = [t.detach().requires_grad_() for t in inputs]
    result = {
        "layer_norm": lambda: kernels.layer_norm(*inputs, 1e-5),
        "rms_norm": lambda: kernels.rms_norm(*inputs, 1e-5),
        "rotary": lambda: kernels.apply_rotary(*inputs, rotary_table(rows, torch.arange(13.0))),
        "swiglu": lambda: kernels.swiglu(*inputs),
    }[operation]
    mixed = result()
    mixed.backward(other)
    return [mixed.detach(), *(t.grad for t in inputs if t.grad is not None)]


@pytest.mark.parametrize("mean", [0.0, 1e3])
@pytest.mark.parametrize("width", [1, 13, 64])
def test_layer_norm_of_rows_far_from_zero_is_exact(width: int, mean: float) -> None:
    """As exact as fp32 numbers so far from zero are told apart."""
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0)) + mean
    ones, zeros = torch.ones(width), torch.zeros(width)
    ours = registry.load({"layer_norm": "cpp"}).layer_norm(x, ones, zeros, 1e-2)
    exact = torch.nn.functional.layer_norm(x.double(), (width,), eps=1e-2)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4 + mean * 1e-6)


def test_swiglu_of_large_numbers_is_finite() -> None:
    x = torch.tensor([-1e4, -200.0, -90.0, -1.0, 0.0, 1.0, 200.0, 1e4, 3.0])
    inputs = [t.clone().requires_grad_() for t in (x, torch.ones(9))]
    result = registry.load({"swiglu": "cpp"}).swiglu(*inputs)
    result.sum().backward()
    exact = x.double().requires_grad_()
    expected = torch.nn.functional.silu(exact)
    expected.sum().backward()
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-30)
    assert inputs[0].grad is not None
    torch.testing.assert_close(inputs[0].grad.double(), exact.grad, rtol=1e-5, atol=1e-30)


SOURCE = 'extern "C" int answer() { return 42; }\n'
ASK = (
    "import sys, pathlib\nfrom kernels import native\n"
    "print(native.built(pathlib.Path(sys.argv[1])).answer())"
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
        output, errors = process.communicate(timeout=40)
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
    output, errors = ask(source).communicate(timeout=40)
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
        native.built(source)
