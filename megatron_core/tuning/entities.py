"""Entities in texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from megatron_core.config import EntitiesTask
from megatron_core.data.tuning.encoding.entities import (
    EncodedSentences,
    decode_tags,
    encode_sentences,
)
from megatron_core.data.tuning.entities import Sentence, read_sentences
from megatron_core.data.tuning.tags import tag_names
from megatron_core.evaluation.entities import dictionary_baseline, entity_scores
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


def entities(config: EntitiesTask, place: Place) -> Task:
    """A tag for each word."""
    files = config.examples
    split = read_split(
        files, lambda path: read_sentences(path, word=files.word, tag=files.tag), config.seed
    )
    names = tag_names(one.tags for one in split.train)
    prompt, tokenizer = prompt_of(config.adapter), place.open_tokenizer()
    head = HeadSpec("tags", len(names), prompt=prompt)

    def encode(part: Sequence[Sentence]) -> EncodedSentences:
        return encode_sentences(
            part, tokenizer, length=config.sequence_length - prompt, framed=place.framed,
            names=names,
        )  # fmt: skip

    train, test = encode(split.train), encode(split.test)
    tags, groups = [one.tags for one in split.test], groups_of(split.test)

    def score(told: Sequence[Tensor]) -> Scores:
        best = torch.cat(list(told)).argmax(dim=-1)[:, prompt:]
        return nested(entity_scores(tags, decode_tags(test, best, names), groups))

    def baselines() -> dict[str, Scores]:
        words, others = (
            [[word.text for word in one.words] for one in part]
            for part in (split.train, split.test)
        )
        found = dictionary_baseline(words, [one.tags for one in split.train], others)
        return {"dictionary": nested(entity_scores(tags, found, groups))}

    return Task(
        train=examples_of(train.rows, train.targets, place.model, by_position=True),
        test=examples_of(test.rows, test.targets, place.model, by_position=True),
        make=partial(TaskModel, place.model, head),
        description=described(place.model, head, names),
        metric="micro_f1",
        score=score,
        baselines=baselines,
        details={
            "train": len(split.train), "test": len(split.test), "tags": len(names),

            **total(split.counts, train.counts, test.counts),
        },
        inputs=split.inputs,
    )  # fmt: skip
