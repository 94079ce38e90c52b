"""What each objective reads: which samples, what is to be predicted, and how it is padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.cross_entropy import IGNORED
from megatron_core.config import (
    BatchSizes,
    Grid,
    MaskingConfig,
    ModelConfig,
    PredictionConfig,
    RateSchedule,
)
from megatron_core.data.datasets.spans import NO_DOCUMENT, DocumentSpan
from megatron_core.errors import CorpusError, IntegrityError
from megatron_core.model import HeadSpec, Share, TaskModel, initialize
from megatron_core.parallel.batch import Batch
from megatron_core.parallel.engine import Engine
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer import LanguageObjective
from megatron_core.trainer.assemble import prediction_objective
from megatron_core.trainer.examples import ExampleObjective, Examples, tell
from megatron_core.trainer.language import MaskedObjective
from megatron_core.trainer.objective import padded_places
from tests.models import small_config
from tests.trainable import write_trainable

SAMPLES = range(40, 47)
CONFIG = PredictionConfig(
    steps=1, sequence_length=16, schedule=RateSchedule(warmup_steps=0), seed=1,
    masking=MaskingConfig(token=63),
)  # fmt: skip


def language(tokens: Path) -> LanguageObjective:
    return LanguageObjective(tokens, CONFIG)


def masked(tokens: Path) -> MaskedObjective:
    return MaskedObjective(tokens, CONFIG, vocabulary=64)


def tokens_of(objective: LanguageObjective, samples: range) -> torch.Tensor:
    """What the samples are made of, from the streams."""
    rows = []
    for k in samples:
        spans = objective.order.locate(k)
        parts = [objective.streams[s.source].tokens[s.first : s.first + s.tokens] for s in spans]
        rows.append(torch.from_numpy(np.concatenate(parts).astype(np.int64)))
    return torch.stack(rows)


def test_language_predicts_every_next_token(tokens: Path) -> None:
    objective = language(tokens)
    batch, windows = objective.read(SAMPLES), tokens_of(language(tokens), SAMPLES)
    assert windows.shape == (7, 17)
    assert torch.equal(batch.tokens, windows[:, :-1])
    assert torch.equal(batch.targets, windows[:, 1:])
    assert (batch.count, batch.by_position) == (7 * 16, True)


def test_samples_are_the_same_however_they_are_read(tokens: Path) -> None:
    """A rank reads its own alone, so nothing may depend on those beside them."""
    for objective in (language(tokens), masked(tokens)):
        whole = objective.read(SAMPLES)
        for row, sample in enumerate(SAMPLES):
            one = objective.read([sample])
            assert torch.equal(one.tokens[0], whole.tokens[row])
            assert torch.equal(one.targets[0], whole.targets[row])


def test_masked_predicts_what_it_hides(tokens: Path) -> None:
    objective = masked(tokens)
    batch, original = objective.read(SAMPLES), tokens_of(objective, SAMPLES)
    chosen = batch.targets != IGNORED
    assert torch.equal(batch.targets[chosen], original[chosen])
    assert torch.equal(batch.tokens[~chosen], original[~chosen])
    assert (batch.tokens[chosen] != original[chosen]).any()
    assert batch.count == int(chosen.sum()) < 7 * 16 / 2


PACKINGS = [
    {"packing": packing, "reset_at_documents": reset}
    for packing in ("concatenate", "best_fit")
    for reset in (False, True)
]


@pytest.mark.parametrize("changes", PACKINGS, ids=lambda c: "-".join(map(str, c.values())))
def test_next_tokens_are_those_of_the_document(changes: dict[str, Any], tokens: Path) -> None:
    """Of the documents themselves: what is read, predicted, and seen."""
    objective = LanguageObjective(tokens, CONFIG.model_copy(update=changes))
    batch = objective.read(SAMPLES)
    reset = changes["reset_at_documents"]
    count = 0
    for row, sample in enumerate(SAMPLES):
        read: list[tuple[int, int]] = []  # token and document
        for number, (source, first, size) in enumerate(objective.order.locate(sample)):
            stream = objective.streams[source]
            read += [(int(stream.tokens[t]), number) for t in range(first, first + size)]
        for at in range(16):
            here, there = ((read[i] if i < len(read) else None) for i in (at, at + 1))
            assert batch.tokens[row, at] == (here[0] if here else 0)
            predicted = here and there and (here[1] == there[1] or not reset)
            assert batch.targets[row, at] == (there[0] if predicted and there else IGNORED)
            count += bool(predicted)
            if batch.documents is not None and here:
                assert batch.documents[row, at] == here[1]
    assert batch.count == count
    assert (batch.documents is not None) == reset
    padding = batch.targets.ne(IGNORED).logical_not().sum() > 0
    assert bool(padding) == (reset or changes["packing"] == "best_fit")


@pytest.mark.parametrize(
    ("changes", "framed"),
    [
        *((changes, False) for changes in PACKINGS),
        *((PACKINGS[i], True) for i in (0, 2, 3)),  # the recipe refuses the other
    ],
    ids=str,
)
def test_masked_sequences_are_framed_and_padding_is_not_seen(
    changes: dict[str, Any], framed: bool, tokens: Path
) -> None:
    masking = MaskingConfig(whole_words=True, framed=framed, masked=1.0, random=0.0)
    config = CONFIG.model_copy(update={**changes, "masking": masking})
    reset, packed = changes["reset_at_documents"], changes["packing"] == "best_fit"
    objective = MaskedObjective(tokens, config, vocabulary=64)
    samples = range(300)
    batch = objective.read(samples)
    if packed:
        assert batch.documents is not None
        assert (batch.documents == NO_DOCUMENT).any()
    for row, sample in enumerate(samples):
        expected: list[tuple[int, int]] = []
        spans = objective.order.locate(sample)
        for number, (source, first, size) in enumerate(spans):
            stream = objective.streams[source]
            part = [int(t) for t in stream.tokens[first : first + size]]
            if framed and (number == 0 or reset):
                part = [61, *part]
            if framed and (number == len(spans) - 1 or reset):
                part = [*part, 62]
            expected += [(token, number) for token in part]
        assert len(expected) <= 16
        truth = torch.where(batch.targets[row] == IGNORED, batch.tokens[row], batch.targets[row])
        assert truth.tolist() == [*(t for t, _ in expected), *[0] * (16 - len(expected))]
        numbers = [*(n if reset else 0 for _, n in expected), *[-1] * (16 - len(expected))]
        if batch.documents is None:
            assert not (packed or reset)
            assert set(numbers) == {0}
        else:
            assert batch.documents[row].tolist() == numbers
        chosen = batch.targets[row] != IGNORED
        assert chosen.any()
        assert set(batch.tokens[row][chosen].tolist()) == {63}
        assert not set(batch.targets[row][chosen].tolist()) & {61, 62}
        assert not chosen[len(expected) :].any()


def test_an_encoder_without_the_tokenizers_facts_is_refused(tokens: Path, tmp_path: Path) -> None:
    for split in ("train", "heldout"):
        (tmp_path / split).symlink_to(tokens / split)
    config = CONFIG.model_copy(update={"masking": MaskingConfig()})
    with pytest.raises(CorpusError, match="run `reforge tokenize` again"):
        MaskedObjective(tmp_path, config, vocabulary=64)


@pytest.mark.parametrize("order", ["permuted", "megatron"])
def test_neither_reading_nor_the_length_of_a_training_moves_a_sample(
    order: str, tokens: Path
) -> None:
    """But for Megatron's order, which is another for another number of samples."""
    sources = {"books": 1.0, "notes": 1.0}

    def located(steps: int, microbatch: int) -> list[list[DocumentSpan]]:
        batch = BatchSizes(sequences=8, microbatch=microbatch)
        changes = {"steps": steps, "batch": batch, "order": order, "sources": sources}
        objective = LanguageObjective(tokens, CONFIG.model_copy(update=changes))
        return [objective.locate(k) for k in range(40)]

    assert located(5, 4) == located(5, 1)
    assert (located(5, 4) == located(500, 4)) == (order == "permuted")


def test_a_training_refuses_tokens_that_were_changed(tmp_path: Path) -> None:
    tokens = write_trainable(tmp_path) / "artifacts" / "tokenize"
    model = ModelConfig(vocabulary=300)

    def open_it() -> LanguageObjective:
        return prediction_objective(CONFIG, model, tokens, tmp_path / "runs")

    assert open_it().locate(0)
    path = tokens / "train" / "notes_text_document.bin"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=r"notes_text_document\.bin was changed"):
        open_it()


def heldout(
    objective: LanguageObjective | ExampleObjective, microbatch: int, multiple: int
) -> list[Batch]:
    made = [make() for make in objective.heldout(microbatch, multiple)]
    assert len(made) % multiple == 0
    assert {len(batch.tokens) for batch in made} == {microbatch}
    return made


@pytest.mark.parametrize(("microbatch", "multiple"), [(1, 1), (3, 4), (5, 2), (64, 8)])
def test_heldout_windows_are_each_predicted_once(
    microbatch: int, multiple: int, tokens: Path
) -> None:
    objective = language(tokens)
    held = objective.heldout_streams
    windows = torch.cat(
        [
            torch.from_numpy(stream.tokens.astype(np.int64)).unfold(0, 17, 16)
            for stream in held.values()
        ]
    )
    assert len(windows) < 64  # so every window is taken
    made = heldout(objective, microbatch, multiple)
    tokens_, targets = (torch.cat([getattr(b, n) for b in made]) for n in ("tokens", "targets"))
    counted = (targets != IGNORED).all(dim=1)
    assert int(counted.sum()) * 16 == sum(batch.count for batch in made) == len(windows) * 16
    assert (targets[~counted] == IGNORED).all()
    found = torch.cat([tokens_[counted], targets[counted, -1:]], dim=1)
    assert sorted(found.tolist()) == sorted(windows.tolist())


@pytest.mark.parametrize(("count", "microbatch", "multiple"), [(0, 2, 4), (8, 2, 4), (9, 2, 4)])
def test_places_are_filled_up(count: int, microbatch: int, multiple: int) -> None:
    places = padded_places(count, microbatch, multiple)
    assert len(places) == multiple * -(-count // (microbatch * multiple))
    flat = [place for row in places for place in row]
    assert flat[:count] == list(range(count))
    assert set(flat[count:]) <= {-1}


def examples(count: int = 4, **changes: Any) -> Examples:
    """Texts of 1, 2, 3, … tokens of a length of 4, each of its number; classes 0, 1, 2."""
    rows, places = torch.arange(count)[:, None], torch.arange(4)
    real = places <= rows % 4
    fields = {
        "tokens": torch.where(real, rows + 1, 0),
        "documents": torch.where(real, 0, NO_DOCUMENT),
        "targets": torch.stack([torch.arange(count) % 3, torch.arange(count) % 4]),
    }
    return Examples(**fields | changes)


def test_a_batch_has_the_examples_and_the_padding() -> None:
    made = examples()
    batch = made.batch([2, 0])
    assert batch.tokens.tolist() == [[3, 3, 3, 0], [1, 0, 0, 0]]
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0, 0, 0, -1], [0, -1, -1, -1]]
    assert batch.targets.tolist() == [[2, 0], [2, 0]]
    assert (batch.count, batch.by_position, batch.types) == (2, False, None)
    assert made.batch([3]).documents is None  # nothing is padded, so nothing is masked


def test_nothing_is_told_of_what_fills_up() -> None:
    assert examples().batch([1, -1]).targets.tolist() == [[1, IGNORED], [1, IGNORED]]
    assert examples().batch([1, -1]).count == 1
    values = examples(targets=torch.tensor([[0.0, 0.5, 1.0, 1.5]], dtype=torch.float64))
    batch = values.batch([1, -1])
    assert batch.targets[0, 0] == 0.5
    assert batch.targets[0, 1].isnan()
    assert batch.count == 1
    tags = examples()
    tags = examples(
        targets=tags.tokens.where(tags.documents >= 0, IGNORED), by_position=True,
        types=tags.documents.clamp(min=0),
    )  # fmt: skip
    batch = tags.batch([3, -1])
    assert batch.targets.tolist() == [[4, 4, 4, 4], [IGNORED] * 4]
    assert (batch.count, batch.by_position) == (4, True)
    assert batch.types is not None and batch.types.shape == (2, 4)


def test_what_belongs_together_stays_together() -> None:
    made = examples(6, together=2)
    assert len(made) == 3
    batch = made.batch([2, -1])
    assert batch.tokens[:2].tolist() == [[5, 0, 0, 0], [6, 6, 0, 0]]
    assert batch.targets[0].tolist() == [1, 2, IGNORED, IGNORED]
    assert batch.count == 1  # examples, not sequences


def test_vectors_of_a_prompt_stand_before_each_text() -> None:
    made = examples()
    assert made.behind(0) is made
    behind = made.behind(2)
    assert behind.tokens.tolist() == [[0, 0, *row] for row in made.tokens.tolist()]
    assert behind.documents.tolist() == [[0, 0, *row] for row in made.documents.tolist()]
    assert torch.equal(behind.targets, made.targets)  # marks are counted from the text
    tags = examples(targets=made.tokens, by_position=True, types=made.tokens.clamp(max=1))
    behind = tags.behind(2)
    assert behind.targets.tolist() == [[IGNORED, IGNORED, *row] for row in tags.targets.tolist()]
    assert behind.types is not None and behind.types[:, :2].sum() == 0


@pytest.mark.parametrize("together", [1, 2])
def test_examples_are_passed_over(together: int) -> None:
    made = examples(6, together=together)
    objective = ExampleObjective(made, made, seed=3)
    batch = objective.read(range(12))  # two passes
    for first in (0, 6):
        rows = [objective.order.item(k // together)[1] for k in range(first, first + 6, together)]
        assert sorted(rows) == list(range(6 // together))
        each = [row * together + k for row in rows for k in range(together)]
        assert torch.equal(batch.tokens[first : first + 6], made.tokens[each])
        assert torch.equal(batch.targets[:, first : first + 6], made.targets[:, each])


@pytest.mark.parametrize("together", [1, 2])
def test_heldout_takes_every_example_once(together: int) -> None:
    test = examples(12, together=together)
    objective = ExampleObjective(examples(), test, seed=3)
    made = heldout(objective, 4, 2)
    targets = torch.cat([batch.targets for batch in made], dim=1)
    assert torch.equal(targets[:, :12], test.targets)
    assert set(targets[0, 12:].tolist()) <= {IGNORED}
    assert sum(batch.count for batch in made) == 12 // together


@pytest.mark.parametrize("together", [1, 2])
def test_what_a_model_tells_is_in_the_order_of_the_examples(together: int) -> None:
    """More examples than are computed at once, and not a multiple of that."""
    config, many = small_config(initial_std=0.3), examples(22, together=together)
    head = HeadSpec("classes", 3)

    def build(share: Share) -> TaskModel:
        model = TaskModel(config, head, share)
        initialize(model, config, seed=1)
        return model

    settings = PredictionConfig(
        steps=1,
        sequence_length=8,
        schedule=RateSchedule(warmup_steps=0),
        batch=BatchSizes(sequences=8, microbatch=4),
        grid=Grid(data=2),
    )
    with open_mesh(Layout(), "cpu", 1) as mesh:
        told = tell(Engine(build, settings, mesh, model=config), many)
    assert len(told) == 22 // together
    model = build(Share())
    with torch.no_grad():
        for row in range(22):
            text = many.tokens[row : row + 1, : row % 4 + 1]
            found = told[row // together][row % together]
            torch.testing.assert_close(found, model(text)[0], rtol=1e-4, atol=1e-5)
