"""lm-eval on an exported decoder, against log-likelihoods worked out by hand."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch

from megatron_core.config import ConvertConfig, EvaluateConfig
from megatron_core.conversion import export_decoder
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.evaluation.harness import HarnessResult, run_harness
from megatron_core.evaluation.tasks import Passage, TaskSet, make_questions
from megatron_core.model import LanguageModel
from tests.models import (
    SENTENCE,
    documents,
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
)

CONTEXT = 24
CONFIG = EvaluateConfig(threads=1, batch_size=3, questions=20)
PASSAGES = {
    # The first takes three windows; the second is not ASCII and shorter than one.
    "books": [Passage("books/0", (SENTENCE.format(5, "liver", 7) * 2)[:-3])],
    "notes": [Passage("notes/4", "Ödeme  des\nHerzens."), Passage("notes/2", "a finding")],
}


@pytest.fixture(scope="module")
def scored(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[LanguageModel, Tokenizer, HarnessResult]:
    folder = tmp_path_factory.mktemp("scored")
    tokenizer = small_tokenizer(folder / "tokenizer")
    decoder = random_decoder(small_config())
    export_decoder(
        stored_weights(decoder), decoder.config, tokenizer, folder / "model", ConvertConfig(),
        checkpoint="root",
    )  # fmt: skip
    level = logging.getLogger("lm_eval").level
    result = run_harness(folder / "model", tasks(), CONFIG, context=CONTEXT, name="test")
    assert logging.getLogger("lm_eval").level == level
    return decoder.double(), Tokenizer.load(tokenizer), result


def tasks() -> TaskSet:
    return TaskSet(PASSAGES, make_questions(documents("hpo", range(30)), CONFIG))


def log_probabilities(decoder: LanguageModel, tokens: list[int]) -> np.ndarray:
    """Of each token after the first, given all before it, in float64."""
    with torch.no_grad():
        logits = decoder(torch.tensor([tokens[:-1]]))[0].numpy()
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(tokens) - 1), tokens[1:]]
    return chosen - np.log(np.exp(logits).sum(axis=1))


def passage_log_likelihood(decoder: LanguageModel, tokens: list[int], end: int) -> float:
    """Each token is predicted once, in windows of CONTEXT predictions.

    A window starts after the token before it; the last is as long as the others, so it begins
    with tokens that are seen again and not counted.
    """
    stream, total = [end, *tokens], 0.0
    for start in range(0, len(tokens), CONTEXT):
        stop = min(start + CONTEXT, len(tokens))
        window = stream[max(0, stop - CONTEXT) : stop + 1]
        total += log_probabilities(decoder, window)[-(stop - start) :].sum()
    return float(total)


def test_passages(scored: tuple[LanguageModel, Tokenizer, HarnessResult]) -> None:
    decoder, tokenizer, result = scored
    length = len(tokenizer.encode(PASSAGES["books"][0].text))
    assert length > 2 * CONTEXT and length % CONTEXT > 1  # the last window is not whole
    for source, passages in PASSAGES.items():
        expected = [
            passage_log_likelihood(decoder, tokenizer.encode(p.text), tokenizer.end_of_document)
            for p in passages
        ]
        assert result.log_likelihoods[source] == pytest.approx(expected, rel=1e-5)
        size = sum(len(p.text.encode("utf-8")) for p in passages)
        words = sum(len(p.text.split()) for p in passages)
        found = result.perplexity[source]
        assert found["bits_per_byte"] == pytest.approx(
            -sum(expected) / size / math.log(2), rel=1e-5
        )
        assert found["byte_perplexity"] == pytest.approx(math.exp(-sum(expected) / size), rel=1e-5)
        assert math.log(found["word_perplexity"]) == pytest.approx(-sum(expected) / words, rel=1e-5)
        assert result.tokens[source] == [tokenizer.encode(p.text) for p in passages]


def test_questions(scored: tuple[LanguageModel, Tokenizer, HarnessResult]) -> None:
    decoder, tokenizer, result = scored
    right, normalized = [], []
    for question in tasks().questions:
        scores = []
        prompt = tokenizer.encode(question.prompt)
        for choice in question.choices:
            answer = tokenizer.encode(" " + choice)
            tokens = (prompt + answer)[-CONTEXT - 1 :]  # what does not fit is cut on the left
            scores.append(log_probabilities(decoder, tokens)[-len(answer) :].sum())
        by_length = [s / len(c) for s, c in zip(scores, question.choices, strict=True)]
        right.append(max(range(4), key=scores.__getitem__) == question.answer)
        normalized.append(max(range(4), key=by_length.__getitem__) == question.answer)
    assert 0 < sum(right) < len(right) == 20
    assert result.questions == {"acc": sum(right) / 20, "acc_norm": sum(normalized) / 20}
