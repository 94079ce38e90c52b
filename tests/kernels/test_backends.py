"""Every backend of every operation: the values and gradients of the formula, and the same bits
twice. A new backend's file is found by itself."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kernels import registry
from kernels.cross_entropy import IGNORED
from kernels.registry import Kernels
from megatron_core.config.kernels import EIGHT_BITS
from tests.formulas import (
    CASES,
    TOLERANCE,
    Shape,
    assert_follows,
    cross_entropy_formula,
    random_tensor,
)

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
strides = pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])


def backends(operation: str) -> pytest.MarkDecorator:
    """All that the operation has, on every device that is here."""
    places = [(name, device) for name in registry.backends(operation) for device in DEVICES]
    return pytest.mark.parametrize(("backend", "device"), places)


def use(operation: str, backend: str, device: str, dtype: torch.dtype) -> Kernels:
    """The backend's functions; without it the test is skipped."""
    if backend in EIGHT_BITS:
        pytest.skip("of 8-bit numbers, whose sizes and tolerance are others: see the tests of them")
    if backend != registry.REFERENCE:
        found = registry.support(operation, backend).obstacle(device, dtype)
        if found is not None:
            pytest.skip(f"{operation}.{backend} on {device}: {found}")
    return registry.load({operation: backend})


def skip_half_if_slow(backend: str, device: str, dtype: torch.dtype, strided: bool) -> None:
    """Triton's interpreter and compilers take seconds for a case."""
    if backend == "triton" and device == "cpu" and strided != (dtype == torch.float32):
        pytest.skip("Triton is interpreted: strided tensors are tried in fp32, others in bf16")
    if backend == "compiled" and strided:
        pytest.skip("to compile takes seconds: tried with contiguous tensors")


def of_cases() -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("backend", "device", "name", "shapes"),
        [
            (backend, device, name, shapes)
            for name, case in CASES.items()
            for backend in registry.backends(case.operation)
            for device in DEVICES
            # Each shape takes a compiler seconds.
            for shapes in (case.shapes[:1] if backend == "compiled" else case.shapes)
        ],
    )


def inputs_for(
    name: str, shapes: Sequence[Shape], dtype: torch.dtype, strided: bool, device: str
) -> list[Tensor]:
    seed = zlib.crc32(repr((name, shapes)).encode())
    return [
        random_tensor(shape, dtype, strided, seed + i, device) for i, shape in enumerate(shapes)
    ]


def assert_repeats(run: Callable[[], Sequence[Tensor | None]]) -> None:
    """Bit for bit; ``run`` makes its own tensors."""
    first, again = ([None if x is None else bits(x) for x in run()] for _ in range(2))
    assert first == again


def bits(x: Tensor) -> tuple[torch.dtype, bytes]:
    return x.dtype, x.detach().cpu().double().numpy().tobytes()


@strides
@dtypes
@of_cases()
def test_forward_and_backward_are_those_of_the_formula(
    backend: str, device: str, name: str, shapes: Sequence[Shape], dtype: torch.dtype, strided: bool
) -> None:
    skip_half_if_slow(backend, device, dtype, strided)
    case = CASES[name]
    kernels = use(case.operation, backend, device, dtype)
    inputs = inputs_for(name, shapes, dtype, strided, device)
    assert case.call(kernels, *inputs).dtype == dtype
    assert_follows(lambda *x: case.call(kernels, *x), case.formula, inputs)


@dtypes
@of_cases()
def test_the_same_input_gives_the_same_bits(
    backend: str, device: str, name: str, shapes: Sequence[Shape], dtype: torch.dtype
) -> None:
    if backend == "triton" and device == "cpu":
        pytest.skip("Triton's interpreter is NumPy, which says nothing of a GPU's order")
    if backend == "compiled" and dtype != torch.float32:
        pytest.skip("to compile takes seconds: tried in fp32")
    case = CASES[name]
    kernels = use(case.operation, backend, device, dtype)

    def run() -> list[Tensor | None]:
        inputs = [x.requires_grad_() for x in inputs_for(name, shapes, dtype, False, device)]
        result = case.call(kernels, *inputs)
        result.backward(result.detach().clone())
        return [result, *(x.grad for x in inputs)]

    assert_repeats(run)


@strides
@dtypes
@pytest.mark.parametrize(
    "shapes", [[(2, 5, 16), (24, 16)], [(7, 33), (1, 33)], [(1, 1, 1), (3, 1)]]
)
@backends("linear")
def test_linear_is_a_product(
    backend: str, device: str, shapes: Sequence[Shape], dtype: torch.dtype, strided: bool
) -> None:
    kernels = use("linear", backend, device, dtype)
    with torch.no_grad():
        x, weight = inputs_for("linear", shapes, dtype, strided, device)
        exact = torch.einsum("...i,oi->...o", x.cpu().double(), weight.cpu().double())
        for wanted, tolerance in ((None, TOLERANCE[dtype]), (torch.float32, 1e-5)):
            result = kernels.linear(x, weight, wanted)
            assert result.dtype == (wanted or dtype)
            torch.testing.assert_close(result.cpu().double(), exact, rtol=tolerance, atol=tolerance)
        assert_repeats(lambda: [kernels.linear(x.clone(), weight.clone())])


@dtypes
@pytest.mark.parametrize("widths", [(24,), (24, 8, 40)])
@backends("linear")
def test_an_input_gradient_is_one_fp32_sum_over_the_layers(
    backend: str, device: str, widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Of halves the products are exact in fp32, so only its own rounding may be seen."""
    kernels = use("linear", backend, device, dtype)
    gradients = [random_tensor((5, 3, n), dtype, False, n, device) for n in widths]
    weights = [random_tensor((n, 16), dtype, False, n + 1, device) for n in widths]
    ours = kernels.input_gradient(gradients, weights)
    exact = sum(
        g.cpu().double() @ w.cpu().double() for g, w in zip(gradients, weights, strict=True)
    )
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.cpu().double(), exact, rtol=1e-5, atol=1e-5)
    assert_repeats(lambda: [kernels.input_gradient([g.clone() for g in gradients], weights)])


@dtypes
@backends("linear")
def test_weight_gradients_are_added_in_fp32(backend: str, device: str, dtype: torch.dtype) -> None:
    kernels = use("linear", backend, device, dtype)
    total = random_tensor((24, 16), torch.float32, False, 0, device)
    exact = total.cpu().double()
    for seed in range(1, 4):
        gradient = random_tensor((5, 3, 24), dtype, False, seed, device)
        x = random_tensor((5, 3, 16), dtype, False, seed + 10, device)
        kernels.add_weight_gradient(total, gradient, x)
        exact += torch.einsum("tbo,tbi->oi", gradient.cpu().double(), x.cpu().double())
    torch.testing.assert_close(total.cpu().double(), exact, rtol=1e-5, atol=1e-5)


@strides
@dtypes
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
# The last is several blocks of rows.
@pytest.mark.parametrize(
    "shape", [(0, 8, 5), (1, 1, 1), (7, 33, 24), (60, 16, 101), (150, 4, 20_000)]
)
@backends("linear_cross_entropy")
def test_the_heads_loss_and_its_gradients_are_those_of_the_formula(
    backend: str, device: str, shape: Shape, ignored: str, biased: bool, dtype: torch.dtype,
    strided: bool,
) -> None:  # fmt: skip
    skip_half_if_slow(backend, device, dtype, strided)
    kernels = use("linear_cross_entropy", backend, device, dtype)
    n, width, classes = shape
    interpreted = backend == "triton" and device == "cpu"
    if classes > (24 if interpreted else 1000) and (ignored != "some" or strided):
        pytest.skip("a big one is enough")
    if classes > 1000 and interpreted:
        pytest.skip("its interpreter takes a minute; smaller blocks are tried beside")
    x, weight, bias = inputs_for(
        "head", [(n, width), (classes, width), (classes,)], dtype, strided, device
    )
    given = bias if biased else None
    targets = torch.arange(n, device=device) * 7919 % classes
    targets[: {"none": 0, "some": n // 3, "all": n}[ignored]] = IGNORED
    exact = [v.detach().cpu().double().requires_grad_() for v in (x, weight, bias)]
    logits = exact[0] @ exact[1].T + (exact[2] if biased else 0.0)
    expected = cross_entropy_formula(logits, targets.cpu()) + 0.0 * logits.sum()
    (0.25 * expected).backward()
    held = random_tensor((classes, width), torch.float32, False, 9, device)
    before = held.clone()
    loss, of_x, of_bias = kernels.linear_cross_entropy(
        x, weight, targets, given, scale=0.25, weight_gradient=held
    )
    tolerance = TOLERANCE[dtype]
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert of_x.dtype == dtype
    assert (of_bias is None) == (not biased)
    pairs = [(loss, expected.detach()), (of_x, exact[0].grad), (held - before, exact[1].grad)]
    if of_bias is not None:
        assert of_bias.dtype == torch.float32
        pairs.append((of_bias, exact[2].grad))
    for ours, wanted in pairs:
        scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(
            ours.cpu().double(), wanted, rtol=tolerance, atol=tolerance * scale
        )
    alone = kernels.linear_cross_entropy(x, weight, targets, given)
    assert alone[1:] == (None, None)
    torch.testing.assert_close(alone[0], loss, rtol=1e-6, atol=1e-6)


@dtypes
@backends("linear_cross_entropy")
def test_the_heads_loss_and_its_gradients_repeat(
    backend: str, device: str, dtype: torch.dtype
) -> None:
    kernels = use("linear_cross_entropy", backend, device, dtype)

    def run() -> list[Tensor | None]:
        x, weight, bias = inputs_for("again", [(60, 32), (101, 32), (101,)], dtype, False, device)
        held = torch.zeros(101, 32, device=device)
        targets = torch.arange(60, device=device)
        results = kernels.linear_cross_entropy(
            x, weight, targets, bias, scale=2.0, weight_gradient=held
        )
        return [*results, held]

    assert_repeats(run)


@strides
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1,), (40,), (5, 33)])
@backends("adamw")
def test_adamw_takes_the_steps_of_torch_in_float64(
    backend: str, device: str, shape: Shape, decay: float, strided: bool
) -> None:
    if backend == "compiled" and strided:
        pytest.skip("to compile takes seconds: tried with contiguous tensors")
    kernels = use("adamw", backend, device, torch.float32)
    rates = [1e-3, 1e-2, 3e-3, 1e-4, 1e-3]
    gradients = [random_tensor(shape, torch.float32, strided, step, device) for step in range(1, 6)]

    def run() -> list[Tensor]:
        weight = random_tensor(shape, torch.float32, strided, 0, device)
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for step, (rate, gradient) in enumerate(zip(rates, gradients, strict=True), start=1):
            kernels.adamw_step(
                weight, gradient, first, second, step=step, learning_rate=rate, beta1=0.8,
                beta2=0.95, epsilon=1e-6, weight_decay=decay,
            )  # fmt: skip
        return [weight, first, second]

    theirs = torch.nn.Parameter(random_tensor(shape, torch.float32, strided, 0).double())
    optimizer = torch.optim.AdamW([theirs], betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        theirs.grad = gradient.cpu().double()
        optimizer.step()
    state = optimizer.state[theirs]
    for ours, exact in zip(
        run(), (theirs.detach(), state["exp_avg"], state["exp_avg_sq"]), strict=True
    ):
        torch.testing.assert_close(ours.cpu().double(), exact, rtol=1e-5, atol=1e-6)
    assert_repeats(run)
