"""N-gram baselines on the models' tasks."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from megatron_core.data.indexed import IndexedWriter
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError
from megatron_core.evaluation.baselines import answer_questions, fit_baselines, score_passages
from megatron_core.evaluation.tasks import Question
from tests.models import small_tokenizer

TEXTS = {"a.b": ["fever and cough", "cough and fever"], "c": ["a cough a day"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(small_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer"))


@pytest.fixture
def tokenized(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    for source, texts in TEXTS.items():
        with IndexedWriter(tmp_path / f"{source}_text_document", np.uint16) as writer:
            for text in texts:
                writer.write([*tokenizer.encode(text), tokenizer.end_of_document])
    return tmp_path


def test_unigrams_count_all_streams(tokenizer: Tokenizer, tokenized: Path) -> None:
    end = tokenizer.end_of_document
    counts: Counter[int] = Counter()
    for texts in TEXTS.values():
        counts[end] += 1  # each stream starts after the end of a document
        for text in texts:
            counts.update([*tokenizer.encode(text), end])
    vocabulary = tokenizer.vocabulary_size
    passage = tokenizer.encode("a fever xyz")
    expected = sum(
        math.log((counts[token] + 1) / (counts.total() + vocabulary)) for token in passage
    )
    model = fit_baselines(tokenized, tokenizer)["unigram"]
    assert score_passages(model, [passage, []], end) == pytest.approx([expected, 0.0])


@pytest.mark.parametrize("name", ["bigram", "trigram"])
def test_contexts_start_at_the_end_of_a_document(
    name: str, tokenizer: Tokenizer, tokenized: Path
) -> None:
    model, end = fit_baselines(tokenized, tokenizer)[name], tokenizer.end_of_document
    passage = tokenizer.encode("cough and a day")
    (found,) = score_passages(model, [passage], end)
    # The chain rule, from the probability of every next token in turn.
    expected, context = 0.0, [end]
    for token in passage:
        every = [
            model.score(np.array([*context, other]))[-1]
            for other in range(tokenizer.vocabulary_size)
        ]
        assert math.fsum(np.exp(every)) == pytest.approx(1)
        expected += every[token]
        context.append(token)
    assert found == pytest.approx(expected)
    (reversed_order,) = score_passages(model, [passage[::-1]], end)
    assert found > reversed_order


def test_questions_are_answered_by_probability(tokenizer: Tokenizer, tokenized: Path) -> None:
    models = fit_baselines(tokenized, tokenizer)
    questions = [
        Question("0", "fever and", ["cough", "zzzzz"], 0),
        Question("1", "cough and", ["zzzzz", "fever"], 1),
        Question("2", "a cough a", ["day", "fever"], 1),
    ]
    assert answer_questions(models["trigram"], questions, tokenizer)["acc"] == pytest.approx(2 / 3)
    # A longer answer is less likely, but not by character.
    longer = [Question("0", "fever and", ["cough cough", "q"], 0)]
    assert answer_questions(models["bigram"], longer, tokenizer) == {"acc": 0.0, "acc_norm": 1.0}


def test_no_datasets_is_an_error(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no datasets"):
        fit_baselines(tmp_path, tokenizer)
