"""Responses that are preferred to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from megatron_core.config import PreferencesTask
from megatron_core.data.tuning.chat import open_template
from megatron_core.data.tuning.encoding.preferences import EncodedPreferences, encode_preferences
from megatron_core.data.tuning.encoding.rows import Rows
from megatron_core.data.tuning.preferences import Preference, read_preferences
from megatron_core.data.tuning.reading import Items
from megatron_core.evaluation.intervals import mean_with_interval
from megatron_core.model import PreferenceModel
from megatron_core.trainer.assemble import describe
from megatron_core.trainer.examples import Examples
from megatron_core.tuning.task import (
    Place,
    Scores,
    Task,
    examples_of,
    nested,
    prompt_of,
    read_split,
    total,
)


def preferences(config: PreferencesTask, place: Place) -> Task:
    """Which of two responses is likelier than it was, beside the other."""
    files = config.examples

    def read(path: Path) -> Items[Preference]:
        return read_preferences(
            path, prompt=files.prompt, chosen=files.chosen, rejected=files.rejected,
            group=files.group,
        )  # fmt: skip

    split = read_split(files, read, config.seed)
    tokenizer = place.open_tokenizer(parse_special_tokens=True)
    template = open_template(place.tokenizer, tokenizer)
    length = config.sequence_length - prompt_of(config.adapter)
    train, test = (
        encode_preferences(part, template, tokenizer, length=length)
        for part in (split.train, split.test)
    )
    belongs = {one.id: one.group or one.id for one in split.test}
    groups = [belongs[name] for name in test.ids]

    def score(told: Sequence[Tensor]) -> Scores:
        margins = [float(one[0].double() - one[1].double()) for one in told]
        right = [float(margin > 0) for margin in margins]
        return nested(mean_with_interval("accuracy", groups, right, 0)) | {
            "margin": {"value": sum(margins) / len(margins)}
        }

    return Task(
        train=_examples(train, place),
        test=_examples(test, place),
        make=partial(PreferenceModel, place.model, config.beta, prompt=prompt_of(config.adapter)),
        description=describe(place.model),
        metric="accuracy",
        score=score,
        baselines=dict,
        details={
            "train": len(train.ids), "test": len(test.ids), "template": template.name,
            **total(split.counts, train.counts, test.counts),
        },
        inputs=split.inputs,
        make_start=partial(PreferenceModel, place.model, config.beta),
        refer=_with_reference,
    )  # fmt: skip


def _examples(encoded: EncodedPreferences, place: Place) -> Examples:
    """Rows of each pair one after the other; the reference is not known yet."""
    sides = encoded.chosen, encoded.rejected

    def between(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts), dim=1).flatten(0, 1)

    rows = Rows(
        between([side.rows.tokens for side in sides]), None,
        between([side.rows.documents for side in sides]),
    )  # fmt: skip
    tokens = between([side.targets for side in sides]).double()
    targets = torch.cat([torch.zeros(1, len(tokens), dtype=torch.float64), tokens.T])
    return examples_of(rows, targets, place.model, together=2)


def _with_reference(examples: Examples, told: Sequence[Tensor]) -> Examples:
    """``examples`` with what the first model ``told`` of them, their log-probabilities."""
    targets = examples.targets.clone()
    targets[0] = torch.cat(list(told)).double()
    return replace(examples, targets=targets)
