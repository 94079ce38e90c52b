"""Relations between two entities that are marked in a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from megatron_core.config import RelationsTask
from megatron_core.data.tuning.encoding.relations import EncodedPairs, encode_pairs
from megatron_core.data.tuning.relations import NONE, MarkedPair, read_pairs
from megatron_core.data.tuning.texts import class_names
from megatron_core.evaluation.classification import (
    classification_scores,
    majority_baseline,
    tfidf_baseline,
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
)


def relations(config: RelationsTask, place: Place) -> Task:
    """The class of each pair, read at the two marks before its entities (Zhou and Chen, 2022)."""
    files = config.examples
    read = partial(read_pairs, sentences=files.sentences, characters=files.characters)
    split = read_split(files, read, config.seed)
    classes = class_names((one.label for one in split.train), "the training examples")
    prompt, tokenizer = prompt_of(config.adapter), place.open_tokenizer()
    head = HeadSpec("classes", len(classes), "marks", marks=2, prompt=prompt)

    def encode(part: Sequence[MarkedPair]) -> EncodedPairs:
        return encode_pairs(
            part, tokenizer, length=config.sequence_length - prompt, framed=place.framed,
            classes=classes,
        )  # fmt: skip

    train, test = encode(split.train), encode(split.test)
    labels, groups = [one.label for one in split.test], groups_of(split.test)
    score_labels = partial(classification_scores, labels, groups=groups, outside=NONE)

    def score(told: Sequence[Tensor]) -> Scores:
        best = torch.cat(list(told)).argmax(dim=-1)
        return nested(score_labels([classes[int(row)] for row in best]))

    def baselines() -> dict[str, Scores]:
        known = [one.label for one in split.train]
        before, after = ([one.text for one in part] for part in (split.train, split.test))
        return {
            "tfidf_logistic_regression": nested(score_labels(tfidf_baseline(before, known, after))),
            "majority": nested(score_labels(majority_baseline(known, len(labels)))),
        }

    def targets(found: EncodedPairs) -> Tensor:
        return torch.cat([found.targets[None], found.marks.T])

    return Task(
        train=examples_of(train.rows, targets(train), place.model),
        test=examples_of(test.rows, targets(test), place.model),
        make=partial(TaskModel, place.model, head),
        description=described(place.model, head, classes),
        metric="micro_f1",
        score=score,
        baselines=baselines,
        details={
            "train": len(split.train), "test": len(split.test), "classes": len(classes),
            "cut": train.cut + test.cut, **split.counts,
        },
        inputs=split.inputs,
    )  # fmt: skip
