"""N-gram baselines, scored on the tasks of the models and in their units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron_core.data.indexed import IndexedDataset
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import CorpusError
from megatron_core.evaluation.ngram import NGramModel
from megatron_core.evaluation.tasks import Question

ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}


def fit_baselines(tokenized: Path, tokenizer: Tokenizer) -> dict[str, NGramModel]:
    """An n-gram model of each order on all token streams in ``tokenized``.

    Raises:
        CorpusError: there are no streams, or they were made with another tokenizer.
    """
    paths = sorted(tokenized.glob("*.idx"))
    if not paths:
        raise CorpusError(f"{tokenized} holds no datasets (*.idx): run `reforge tokenize`")
    streams = []
    for path in paths:
        tokens = IndexedDataset(path.with_suffix("")).tokens
        # As in the middle of a stream, the first document follows the end of another.
        streams.append(np.concatenate([[tokenizer.end_of_document], tokens]))
    return {
        name: NGramModel(order, tokenizer.vocabulary_size).fit(streams)
        for name, order in ORDERS.items()
    }


def score_passages(
    model: NGramModel, passages: Sequence[Sequence[int]], end_of_document: int
) -> list[float]:
    """Natural logarithm of the probability of each passage after an end of document."""
    return [
        float(model.score(np.array([end_of_document, *tokens]))[1:].sum()) for tokens in passages
    ]


def answer_questions(
    model: NGramModel, questions: Sequence[Question], tokenizer: Tokenizer
) -> dict[str, float]:
    """``acc`` and ``acc_norm`` as lm-eval defines them.

    The likeliest choice after the prompt is the answer; for ``acc_norm``, likeliest by character.
    """
    right = normalized = 0
    if not questions:
        return {}
    for question in questions:
        start = len(tokenizer.encode(question.prompt))
        scores = np.array(
            [
                model.score(np.array(tokenizer.encode(f"{question.prompt} {choice}")))[start:].sum()
                for choice in question.choices
            ]
        )
        lengths = np.array([len(choice) for choice in question.choices])
        right += int(scores.argmax() == question.answer)
        normalized += int((scores / lengths).argmax() == question.answer)
    return {"acc": right / len(questions), "acc_norm": normalized / len(questions)}
