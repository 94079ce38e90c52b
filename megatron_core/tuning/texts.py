"""Classes and numbers of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from megatron_core.config import (
    ChapterExamples,
    ClassificationTask,
    SimilarityTask,
    TextExamples,
)
from megatron_core.data.chapters import chapter_texts
from megatron_core.data.tuning.encoding.texts import EncodedTexts, encode_texts
from megatron_core.data.tuning.texts import LabelledText, class_names, read_texts
from megatron_core.evaluation.classification import (
    Texts,
    classification_scores,
    majority_baseline,
    tfidf_baseline,
)
from megatron_core.evaluation.regression import (
    mean_baseline,
    overlap_baseline,
    regression_scores,
    ridge_baseline,
)
from megatron_core.model import HeadSpec, TaskModel
from megatron_core.tuning.task import (
    Place,
    Scores,
    Split,
    Task,
    described,
    examples_of,
    groups_of,
    nested,
    prompt_of,
    read_split,
)


def classification(config: ClassificationTask, place: Place) -> Task:
    """The class of each text or pair of texts."""
    split = _read_classes(config.examples, place, config.seed)
    classes = class_names((one.label for one in split.train), "the training examples")
    head = HeadSpec("classes", len(classes), config.pooling, prompt=prompt_of(config.adapter))
    labels, groups = [str(one.label) for one in split.test], groups_of(split.test)
    score_labels = partial(classification_scores, labels, groups=groups)

    def score(told: Sequence[Tensor]) -> Scores:
        best = torch.cat(list(told)).argmax(dim=-1)
        return nested(score_labels([classes[int(row)] for row in best]))

    def baselines() -> dict[str, Scores]:
        known = [str(one.label) for one in split.train]
        before, after = _texts(split.train), _texts(split.test)
        return {
            "tfidf_logistic_regression": nested(score_labels(tfidf_baseline(before, known, after))),
            "majority": nested(score_labels(majority_baseline(known, len(labels)))),
        }

    return _task(
        config, place, split, head, classes=classes, score=score, baselines=baselines,
        metric="macro_f1",
    )  # fmt: skip


def similarity(config: SimilarityTask, place: Place) -> Task:
    """The number of each text or pair of texts."""
    files = config.examples
    split = read_split(
        files,
        lambda path: read_texts(
            path, text=files.text, second=files.second, score=files.score, group=files.group
        ),
        config.seed,
    )
    head = HeadSpec("value", 1, config.pooling, prompt=prompt_of(config.adapter))
    truth, groups = [float(one.score or 0.0) for one in split.test], groups_of(split.test)

    def score(told: Sequence[Tensor]) -> Scores:
        predicted = torch.cat(list(told))[:, 0].tolist()
        return nested(regression_scores(truth, predicted, groups))

    def baselines() -> dict[str, Scores]:
        known = [float(one.score or 0.0) for one in split.train]
        before, after = _texts(split.train), _texts(split.test)
        found = {
            "tfidf_ridge": ridge_baseline(before, known, after),
            "mean": mean_baseline(known, len(after)),
        }
        if pairs := [one for one in after if isinstance(one, tuple)]:
            found["word_overlap"] = overlap_baseline(pairs)
        return {
            name: nested(regression_scores(truth, guesses, groups))
            for name, guesses in found.items()
        }

    return _task(
        config, place, split, head, classes=None, score=score, baselines=baselines,
        metric="pearson",
    )  # fmt: skip


def _task(
    config: ClassificationTask | SimilarityTask, place: Place, split: Split, head: HeadSpec, *,
    classes: Sequence[str] | None, score: Callable[[Sequence[Tensor]], Scores],
    baselines: Callable[[], dict[str, Scores]], metric: str,
) -> Task:  # fmt: skip
    tokenizer = place.open_tokenizer()

    def encode(part: Sequence[LabelledText]) -> EncodedTexts:
        return encode_texts(
            part, tokenizer, length=config.sequence_length - head.prompt, framed=place.framed,
            classes=classes,
        )  # fmt: skip

    train, test = encode(split.train), encode(split.test)
    return Task(
        train=examples_of(train.rows, train.targets[None], place.model),
        test=examples_of(test.rows, test.targets[None], place.model),
        make=partial(TaskModel, place.model, head),
        description=described(place.model, head, classes),
        metric=metric,
        score=score,
        baselines=baselines,
        details={
            "train": len(split.train), "test": len(split.test),
            **({"classes": len(classes)} if classes is not None else {}),
            "cut": train.cut + test.cut, **split.counts,
        },
        inputs=split.inputs,
    )  # fmt: skip


def _read_classes(files: TextExamples | ChapterExamples, place: Place, seed: int) -> Split:
    if isinstance(files, TextExamples):
        return read_split(
            files,
            lambda path: read_texts(
                path, text=files.text, second=files.second, label=files.label, group=files.group,
                skip=files.skip,
            ),
            seed,
        )  # fmt: skip
    sides = [
        chapter_texts(place.documents / side, files.source, files.codes_per_category, seed)
        for side in ("train", "heldout")
    ]
    train, test = (
        [
            LabelledText(f"{group}/{number}", text, label=label, group=group)
            for number, (text, label, group) in enumerate(
                zip(side.texts, side.labels, side.groups, strict=True)
            )
        ]
        for side in sides
    )
    return Split(train, test, {}, {})


def _texts(examples: Sequence[LabelledText]) -> list[Texts]:
    return [one.text if one.second is None else (one.text, one.second) for one in examples]
