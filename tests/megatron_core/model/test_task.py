"""Each head against the same in float64, by hand, one sequence at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.model import (
    Documents,
    HeadSpec,
    LanguageModel,
    Place,
    TaskModel,
    initialize,
    load_parameters,
    parameter_shards,
)
from megatron_core.model.parameters import ParameterShard
from tests.models import small_config

CONFIG = small_config(kind="encoder", initial_std=0.3)
LENGTHS = [1, 5, 12, 11]
SIZE = 12


def made(spec: HeadSpec) -> TaskModel:
    model = TaskModel(CONFIG, spec)
    initialize(model, CONFIG, seed=1)
    model.head.bias.data.copy_(torch.linspace(-1, 1, len(model.head.bias)))
    return model


def tokens() -> Tensor:
    return torch.randint(300, (4, SIZE), generator=torch.Generator().manual_seed(0))


def place(lengths: list[int] | None = None) -> Place:
    """Padding after each text, as ``Examples`` has it."""
    rows = torch.arange(SIZE) < torch.tensor(lengths or LENGTHS)[:, None]
    return Place(documents=Documents.of(torch.where(rows, 0, -1).T))


def hidden(model: TaskModel, row: int, length: int | None = None) -> Tensor:
    """Final hidden states of one text alone, without padding: float64 ``[length, hidden]``."""
    alone = LanguageModel(CONFIG).double()
    weights = {
        shard.place.tensor: shard.parameter.double() for shard in backbone(model)
    }  # fmt: skip
    load_parameters(alone, weights)
    with torch.no_grad():
        return alone.hidden(tokens()[row : row + 1, : length or LENGTHS[row]])[0]


def backbone(model: TaskModel) -> list[ParameterShard]:
    return parameter_shards(model.backbone)


def told(model: TaskModel, targets: Tensor | None = None, **changes: Tensor) -> Tensor:
    with torch.no_grad():
        return model(changes.get("tokens", tokens()), targets, place())


def loss(model: TaskModel, targets: Tensor, where: Place | None = None) -> float:
    where = where or place()
    chunks = model.blocks(model.embed([tokens().T], [where]), [where])
    (found,) = model.losses(chunks, [targets], [where])
    return float(found)


def head(model: TaskModel, x: Tensor) -> Tensor:
    return x @ model.head.weight.double().T + model.head.bias.double()


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_sequence_is_pooled(pooling: str) -> None:
    model = made(HeadSpec("classes", 5, pooling))  # type: ignore[arg-type]
    logits = told(model)
    classes = torch.tensor([[1, 4, IGNORED, 0]])
    expected = 0.0
    for row in range(4):
        x = hidden(model, row)
        pooled = {"mean": x.mean(dim=0), "first": x[0], "last": x[-1]}[pooling]
        right = head(model, pooled)
        torch.testing.assert_close(logits[row].double(), right, rtol=1e-4, atol=1e-5)
        if classes[0, row] != IGNORED:
            expected -= float(right.log_softmax(dim=-1)[classes[0, row]])
    assert loss(model, classes) == pytest.approx(expected, rel=1e-5)


def test_marks_are_read_end_to_end() -> None:
    model = made(HeadSpec("classes", 3, "marks", marks=2))
    marks = torch.tensor([[0, 3, 11, 2], [0, 1, 0, 10]])
    targets = torch.cat([torch.tensor([[2, 0, 1, IGNORED]]), marks])
    logits = told(model, targets)
    for row in range(4):
        x = hidden(model, row)
        right = head(model, torch.cat([x[marks[0, row]], x[marks[1, row]]]))
        torch.testing.assert_close(logits[row].double(), right, rtol=1e-4, atol=1e-5)


def test_each_token_has_its_tag() -> None:
    model = made(HeadSpec("tags", 4))
    targets = (tokens() % 4).where(tokens() % 3 > 0, IGNORED)
    targets = targets.where(torch.arange(SIZE) < torch.tensor(LENGTHS)[:, None], IGNORED)
    logits, expected = told(model), 0.0
    assert logits.shape == (4, SIZE, 4)
    for row, length in enumerate(LENGTHS):
        right = head(model, hidden(model, row))
        torch.testing.assert_close(logits[row, :length].double(), right, rtol=1e-4, atol=1e-5)
        for at in range(length):
            if targets[row, at] != IGNORED:
                expected -= float(right[at].log_softmax(dim=-1)[targets[row, at]])
    assert loss(model, targets.T) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prompt", [0, 3])
def test_a_span_is_chosen_of_the_text_alone(prompt: int) -> None:
    """Neither padding nor the positions of a soft prompt can begin or end it."""
    model = made(HeadSpec("span", 2, prompt=prompt))
    lengths = [4, 5, 12, 11]
    targets = torch.tensor([[3, 4, IGNORED, 5], [3, 3, IGNORED, 10]])
    expected = 0.0
    for row in (0, 1, 3):
        scores = head(model, hidden(model, row, lengths[row]))[prompt:]
        for end in range(2):
            at = targets[end, row] - prompt
            expected -= float(scores[:, end].log_softmax(dim=0)[at])
    assert loss(model, targets, place(lengths)) == pytest.approx(expected, rel=1e-5)


def test_a_value_that_is_not_known_does_not_count() -> None:
    model = made(HeadSpec("value", 1))
    values = torch.tensor([[0.5, torch.nan, -2.0, torch.nan]], dtype=torch.float64)
    expected = sum(
        float((head(model, hidden(model, row).mean(dim=0))[0] - values[0, row]) ** 2)
        for row in (0, 2)
    )
    assert loss(model, values) == pytest.approx(expected, rel=1e-4)
    where = place()
    chunks = model.blocks(model.embed([tokens().T], [where]), [where])
    (found,) = model.losses(chunks, [values], [where])
    found.backward()
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.isnan().any()


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_positions_of_a_soft_prompt_are_skipped(pooling: str) -> None:
    """The head reads what comes after them; the first token of the text is the first."""
    model = made(HeadSpec("classes", 5, pooling, prompt=3))  # type: ignore[arg-type]
    with torch.no_grad():
        logits = model(tokens(), None, place([4, 5, 12, 11]))
    for row, length in enumerate([4, 5, 12, 11]):
        x = hidden(model, row, length)[3:]
        pooled = {"mean": x.mean(dim=0), "first": x[0], "last": x[-1]}[pooling]
        torch.testing.assert_close(
            logits[row].double(), head(model, pooled), rtol=1e-4, atol=1e-5
        )  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        HeadSpec("classes", 5), HeadSpec("classes", 5, "first"), HeadSpec("classes", 5, "last"),
        HeadSpec("value", 1), HeadSpec("tags", 3), HeadSpec("span", 2),
    ],
    ids=lambda spec: f"{spec.kind}-{spec.pooling}",
)  # fmt: skip
def test_padding_has_no_say(spec: HeadSpec) -> None:
    model, real = made(spec), torch.arange(SIZE) < torch.tensor(LENGTHS)[:, None]
    ours = told(model)
    theirs = told(model, tokens=torch.where(real, tokens(), (tokens() + 7) % 300))
    if spec.kind in ("tags", "span"):
        ours, theirs = ours[real], theirs[real]
    assert torch.equal(ours, theirs)


def test_the_last_real_token_has_its_say() -> None:
    model, other = made(HeadSpec("classes", 5)), tokens()
    other[:, 0] = (other[:, 0] + 1) % 300
    assert not torch.isclose(told(model), told(model, tokens=other)).all(dim=1).any()


def test_it_holds_no_other_head() -> None:
    config = small_config(kind="encoder", pooler=True, head_transform=True)
    names = {
        shard.place.tensor for shard in parameter_shards(TaskModel(config, HeadSpec("classes", 5)))
    }
    assert "backbone.embedding.weight" in names
    gone = ("backbone.head", "backbone.transform", "backbone.pooler", "backbone.pair_head")
    assert not [name for name in names if name.startswith(gone)]
