"""What each objective reads: which samples, what is to be predicted, and how it is padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron_core.trainer.classification import Examples, predict

from kernels.cross_entropy import IGNORED
from megatron_core.config import (
    BatchSizes,
    MaskingConfig,
    ModelConfig,
    PredictionConfig,
    RateSchedule,
)
from megatron_core.data.datasets.spans import NO_DOCUMENT, DocumentSpan
from megatron_core.errors import CorpusError, IntegrityError
from megatron_core.model import Classifier, initialize
from megatron_core.parallel.batch import Batch
from megatron_core.trainer import ClassificationObjective, LanguageObjective
from megatron_core.trainer.assemble import prediction_objective
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
    objective: LanguageObjective | ClassificationObjective, microbatch: int, multiple: int
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


TEXTS = [[1, 2], [9, 9, 9, 9, 9, 9], [], [4, 5, 6]]
CLASSES = [0, 1, 2, 1]


def examples(times: int = 1) -> Examples:
    return Examples.of(TEXTS * times, CLASSES * times, length=4)


def test_examples_are_padded_and_cut() -> None:
    made = examples()
    assert made.tokens.tolist() == [[1, 2, 0, 0], [9, 9, 9, 9], [0, 0, 0, 0], [4, 5, 6, 0]]
    assert made.lengths.tolist() == [2, 4, 1, 3]  # an empty text counts its padding once
    assert made.classes.tolist() == CLASSES
    assert len(made) == 4


def test_classification_passes_over_the_examples() -> None:
    objective, made = ClassificationObjective(examples(), examples(), seed=3), examples()
    batch = objective.read(range(8))  # two passes
    assert (batch.count, batch.by_position) == (8, False)
    for first in (0, 4):
        rows = [objective.order.item(k)[1] for k in range(first, first + 4)]
        assert sorted(rows) == [0, 1, 2, 3]
        assert torch.equal(batch.tokens[first : first + 4], made.tokens[rows])
        targets = torch.stack([made.classes[rows], made.lengths[rows]])
        assert torch.equal(batch.targets[:, first : first + 4], targets)


def test_classification_heldout_takes_every_example_once() -> None:
    objective = ClassificationObjective(examples(), examples(3), seed=3)
    made = heldout(objective, 5, 2)
    classes, lengths = torch.cat([batch.targets for batch in made], dim=1)
    assert classes[:12].tolist() == CLASSES * 3
    assert lengths[:12].tolist() == examples(3).lengths.tolist()
    assert set(classes[12:].tolist()) == {IGNORED}
    assert sum(batch.count for batch in made) == 12


def test_predictions_are_the_largest_logits() -> None:
    config = small_config(initial_std=0.3)
    model = Classifier(config, classes=3)
    initialize(model, config, seed=1)
    many = examples(20)  # more than are computed at once
    with torch.no_grad():
        logits = model(many.tokens, many.lengths)
    assert predict(model, many) == logits.argmax(dim=1).tolist()
