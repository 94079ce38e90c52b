"""Answers to questions that stand in a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import AnswersTask
from megatron_core.data.tuning.encoding.questions import (
    EncodedQuestions,
    encode_questions,
    find_answers,
)
from megatron_core.data.tuning.questions import SpanQuestion, read_questions
from megatron_core.evaluation.answers import (
    answer_scores,
    first_words_baseline,
    unanswered_baseline,
)
from megatron_core.model import HeadSpec, TaskModel
from megatron_core.tuning.task import (
    Place,
    Scores,
    Task,
    described,
    examples_of,
    groups_of,
    nested,
    prompt_of,
    read_split,
    total,
)


def answers(config: AnswersTask, place: Place) -> Task:
    """The first and last token of each answer."""
    files = config.examples
    split = read_split(
        files,
        lambda path: read_questions(path, group=files.group, strict=files.strict),
        config.seed,
    )
    prompt, tokenizer = prompt_of(config.adapter), place.open_tokenizer()
    head = HeadSpec("span", 2, prompt=prompt)

    def encode(part: Sequence[SpanQuestion]) -> EncodedQuestions:
        return encode_questions(
            part, tokenizer, length=config.sequence_length - prompt, framed=place.framed,
            question_length=config.question_length, shared=config.stride,
        )  # fmt: skip

    train, test = encode(split.train), encode(split.test)
    right = [[answer.text for answer in one.answers] for one in split.test]
    groups = groups_of(split.test)

    def score(told: Sequence[Tensor]) -> Scores:
        firsts, lasts = torch.cat(list(told))[:, prompt:].unbind(dim=-1)
        found = find_answers(test, split.test, firsts, lasts, longest=config.longest)
        return nested(answer_scores(right, [one.text() for one in found], groups))

    def baselines() -> dict[str, Scores]:
        found = {
            "unanswered": unanswered_baseline(len(right)),
            "first_words": first_words_baseline([one.context for one in split.test]),
        }
        return {name: nested(answer_scores(right, said, groups)) for name, said in found.items()}

    def targets(found: EncodedQuestions) -> Tensor:
        places = found.targets.T
        return torch.where(places == IGNORED, places, places + prompt)

    return Task(
        train=examples_of(train.rows, targets(train), place.model),
        test=examples_of(test.rows, targets(test), place.model),
        make=partial(TaskModel, place.model, head),
        description=described(place.model, head),
        metric="f1",
        score=score,
        baselines=baselines,
        details={
            "train": len(split.train), "test": len(split.test),
            **total(split.counts, train.counts, test.counts),
        },
        inputs=split.inputs,
    )  # fmt: skip
