"""Responses to prompts, and an assistant's turns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.config import DialogueExamples, InstructionsTask, SamplingConfig
from megatron_core.data.tuning.chat import open_template
from megatron_core.data.tuning.encoding.conversations import encode_parts
from megatron_core.data.tuning.encoding.instructions import encode_conversations
from megatron_core.data.tuning.instructions import (
    Conversation,
    read_conversations,
    read_prompts,
)
from megatron_core.data.tuning.reading import Items
from megatron_core.errors import CorpusError
from megatron_core.evaluation.rouge import lead_baseline, rouge_scores
from megatron_core.inference import Generator, StoredModel, special_tokens
from megatron_core.model import LanguageModel
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh
from megatron_core.trainer.assemble import describe
from megatron_core.tuning.likelihood import likelihood_scores
from megatron_core.tuning.task import (
    Place,
    Scores,
    Task,
    examples_of,
    groups_of,
    nested,
    prompt_of,
    read_split,
    total,
)

_SLOTS = 8  # prompts answered at a time


def instructions(config: InstructionsTask, place: Place) -> Task:
    """The assistant's tokens given all before them."""
    split = read_split(config.examples, partial(_read, config.examples), config.seed)
    tokenizer = place.open_tokenizer(parse_special_tokens=True)
    template = open_template(place.tokenizer, tokenizer)
    length = config.sequence_length - prompt_of(config.adapter)
    train, test = (
        encode_conversations(part, template, tokenizer, length=length, packed=packed)
        for part, packed in ((split.train, config.packing), (split.test, False))
    )
    kept = {name for row in test.ids for name in row}
    asked = [one for one in split.test if one.id in kept]
    groups = groups_of(asked)
    counts = (test.targets != IGNORED).sum(dim=1).tolist()

    def score(told: Sequence[Tensor]) -> Scores:
        nats = [float(one.double().sum()) for one in told]
        return likelihood_scores(nats, counts, groups)

    def generate(model: Path, mesh: Mesh) -> Scores:
        return _generate(config, place, asked, model, mesh)

    def baselines() -> dict[str, Scores]:
        if not config.generate:
            return {}
        # What a form says before its first field is of no example.
        before, field, _ = config.examples.prompt.partition("{")
        before = before if field and config.examples.messages is None else ""
        questions = [one.turns[-2].content.removeprefix(before) for one in asked]
        right = [one.turns[-1].content for one in asked]
        return {"first_sentence": nested(rouge_scores(right, lead_baseline(questions), groups))}

    return Task(
        train=examples_of(train.rows, train.targets, place.model, by_position=True),
        test=examples_of(test.rows, test.targets, place.model, by_position=True),
        make=partial(LanguageModel, place.model),
        description=describe(place.model),
        metric="rouge_l" if config.generate else "token_probability",
        score=score,
        baselines=baselines,
        details={
            "train": len(split.train), "test": len(asked), "template": template.name,
            **total(split.counts, train.counts, test.counts),
        },
        inputs=split.inputs,
        make_start=partial(LanguageModel, place.model),
        generate=generate if config.generate else None,
    )  # fmt: skip


def _read(files: DialogueExamples, path: Path) -> Items[Conversation]:
    if files.messages is not None:
        return read_conversations(path, messages=files.messages, group=files.group)
    return read_prompts(
        path, prompt=files.prompt, response=files.response, system=files.system, group=files.group
    )


def _generate(
    config: InstructionsTask, place: Place, asked: Sequence[Conversation], model: Path, mesh: Mesh
) -> Scores:
    """ROUGE of the likeliest responses to the last prompts, computed by this rank alone."""
    tokenizer = place.open_tokenizer(parse_special_tokens=True)
    template = open_template(place.tokenizer, tokenizer)
    for one in asked:
        if len(one.turns) < 2:
            raise CorpusError(f"conversation {one.id!r} has no prompt to answer")
    alone = Mesh(Layout(), 0, mesh.device)
    decoder = StoredModel.find(model).load(alone, shards=config.grid.tensor)
    parts = [template.prompt(one.turns[:-1]) for one in asked]
    encoded = encode_parts(parts, [one.id for one in asked], tokenizer)
    room = decoder.positions - config.generate
    prompts = []
    for one, tokens in zip(asked, encoded, strict=True):
        fitted = tokens.without(len(tokens.ids) - room)
        if fitted is None:
            raise CorpusError(
                f"the prompt of conversation {one.id!r} leaves no room for "
                f"{config.generate} tokens: lower generate, or shorten it"
            )
        prompts.append(list(fitted.ids))
    _, ends = special_tokens(place.tokenizer, tokenizer)
    generator = Generator(decoder, tokenizer, slots=_SLOTS, ends=ends)
    found = generator.generate(prompts, SamplingConfig(tokens=config.generate, temperature=0.0))
    right = [one.turns[-1].content for one in asked]
    said = [one.text.strip() for one in found]
    return nested(rouge_scores(right, said, groups_of(asked)))
