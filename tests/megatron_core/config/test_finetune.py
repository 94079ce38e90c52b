"""What the section ``finetune`` cannot see alone, and the identity of its tasks."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_core.config import FinetuneConfig, Recipe
from megatron_core.config.recipe import cross_section_problems, training_runs

SMALL = {
    "vocabulary": 512, "positions": 64, "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2,
    "ffn": 48, "activation": "gelu",
}  # fmt: skip
TRAINING = {"steps": 10, "sequence_length": 32, "schedule": {"warmup_steps": 1}}
FILES = {"train": "x"}
TASKS: dict[str, dict[str, Any]] = {
    "labels": {"kind": "classification", "examples": {"kind": "texts", **FILES}},
    "sts": {"kind": "similarity", "examples": FILES},
    "ner": {"kind": "entities", "examples": FILES},
    "pairs": {"kind": "relations", "examples": FILES},
    "qa": {"kind": "answers", "examples": FILES},
    "chat": {"kind": "instructions", "examples": FILES},
    "dpo": {"kind": "preferences", "examples": FILES},
}
OF_DECODERS = ("chat", "dpo")


def recipe(*, model: dict[str, Any] | None = None, continued: Any = None, **tasks: Any) -> Recipe:
    """With ``tasks`` by name: changes of those above, or whole ones."""
    made = {name: {**TRAINING, **TASKS.get(name, {}), **task} for name, task in tasks.items()}
    return Recipe.model_validate(
        {
            "ingest": {"sources": {"notes": {"kind": "jsonl", "path": "x"}}},
            "tokenizer": {"vocabulary": 512},
            "pretrain": {**TRAINING, "model": SMALL | (model or {})},
            "finetune": {"continued": continued, "tasks": made},
        }
    )


def problems(made: Recipe) -> list[tuple[str, str]]:
    return [
        (one.path.removeprefix("finetune."), one.message) for one in cross_section_problems(made)
    ]


def test_every_kind_of_task_is_trained() -> None:
    made = recipe(**{name: {} for name in TASKS})
    assert problems(made) == []
    assert list(training_runs(made)) == ["pretrain", *(f"finetune.tasks.{name}" for name in TASKS)]


def test_a_recipe_may_only_pretrain() -> None:
    made = recipe()
    assert problems(made) == []
    assert list(training_runs(made)) == ["pretrain"]
    assert FinetuneConfig.model_validate(made.finetune.identity()) == made.finetune


@pytest.mark.parametrize("name", TASKS)
def test_encoders_give_no_text(name: str) -> None:
    found = problems(recipe(model={"kind": "encoder"}, **{name: {}}))
    expected = [(f"tasks.{name}.kind", "is of decoders alone: an encoder gives no text")]
    assert found == (expected if name in OF_DECODERS else [])


@pytest.mark.parametrize("name", TASKS)
def test_texts_that_are_seen_whole_are_not_cut(name: str) -> None:
    found = problems(recipe(**{name: {"grid": {"context": 2}}}))
    assert bool(found) == (name not in ("ner", "chat"))
    assert all(path == f"tasks.{name}.grid.context" for path, _ in found)


@pytest.mark.parametrize(
    "name",
    ["continued", "pretrain", "results", "pretrained", "adapted", "chance", "unigram", "bigram",
     "trigram"],
)  # fmt: skip
def test_names_that_are_taken(name: str) -> None:
    finetune = {"continued": None, "tasks": {name: {**TRAINING, **TASKS["ner"]}}}
    made = Recipe.model_validate(recipe().model_dump() | {"finetune": finetune})
    assert problems(made) == [(f"tasks.{name}", "must have another name: this one is taken")]


def lora(**changes: Any) -> dict[str, Any]:
    return {"adapter": {"kind": "lora", **changes}}


@pytest.mark.parametrize(
    ("model", "adapter", "message"),
    [
        ({}, {"matrices": ["query", "query"]}, "must name each matrix once"),
        ({}, {"matrices": ["up", "gate"]}, "must not name gate: the model has none"),
        (
            {"activation": "swiglu", "experts": {"count": 4, "chosen": 2}},
            {"matrices": ["query", "down"]}, "must not name down: experts stay as they are",
        ),
    ],
)  # fmt: skip
def test_matrices_that_can_be_changed(
    model: dict[str, Any], adapter: dict[str, Any], message: str
) -> None:
    found = problems(recipe(model=model, ner=lora(**adapter)))
    assert found == [("tasks.ner.adapter.matrices", message)]
    found = problems(recipe(model=model, continued={**TRAINING, "adapter": adapter}))
    assert found == [("continued.adapter.matrices", message)]
    assert problems(recipe(model={"activation": "swiglu"}, ner=lora(matrices=["gate"]))) == []


def test_a_soft_prompt_leaves_room() -> None:
    def made(tokens: int) -> Recipe:
        return recipe(chat={"adapter": {"kind": "soft_prompt", "tokens": tokens}})

    assert problems(made(24)) == []
    ((path, message),) = problems(made(25))
    assert path == "tasks.chat.sequence_length"
    assert message == "must leave 8 tokens beside the 25 of adapter.tokens"


def test_sequences_of_preferences_come_in_pairs() -> None:
    def made(microbatch: int) -> Recipe:
        return recipe(dpo={"batch": {"sequences": 12, "microbatch": microbatch}})

    assert problems(made(2)) == []
    assert problems(made(3)) == [
        ("tasks.dpo.batch.microbatch", "must be even: sequences come in pairs")
    ]


@pytest.mark.parametrize(
    ("before", "start", "message"),
    [
        ({}, "pretrain", None),
        ({}, "chat", None),
        ({"adapter": {"kind": "lora"}}, "chat", None),
        ({}, "continued", "must be one that is trained before: pretrain, chat"),
        ({}, "dpo", "must be one that is trained before: pretrain, chat"),
        ({}, "ner", "must be one that is trained before: pretrain, chat"),
        (
            {"adapter": {"kind": "soft_prompt"}}, "chat",
            "must not name a task that trains a soft prompt",
        ),
        ({"repeats": 2}, "chat", "must name a task that is trained once, not repeated"),
    ],
)  # fmt: skip
def test_what_a_task_may_begin_with(
    before: dict[str, Any], start: str, message: str | None
) -> None:
    made = recipe(chat=before, dpo={"start": start}, ner={})
    assert problems(made) == ([] if message is None else [("tasks.dpo.start", message)])


def test_a_task_begins_with_a_language_model() -> None:
    ((path, message),) = problems(recipe(ner={}, dpo={"start": "ner"}))
    assert path == "tasks.dpo.start"
    assert "must name a task that leaves a language model, not one of kind entities" in message
    assert problems(recipe(continued=TRAINING, dpo={"start": "continued"})) == []


@pytest.mark.parametrize(("field", "value"), [("device", "cuda"), ("threads", 3)])
def test_all_run_in_the_same_processes(field: str, value: Any) -> None:
    found = problems(recipe(continued=TRAINING, ner={}, qa={field: value}))
    assert [path for path, _ in found] == [f"tasks.qa.{field}"]
    assert "must be finetune.continued." in found[0][1]
    assert problems(recipe(ner={field: value}, qa={field: value})) == []


def test_the_identity_of_a_task_is_of_what_can_change_a_bit() -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        return recipe(ner=changes).finetune.identity()

    before = identity()
    assert identity(checkpoints={"every": 7}, hang_after=9, trackers=[], validate_every=3) == before
    for changes in (
        {"steps": 11}, {"seed": 2}, lora(), lora(rank=3), {"examples": {"train": "y"}},
        {"repeats": 2}, {"start": "pretrain"},
    ):  # fmt: skip
        assert identity(**changes) != before
    assert "trackers" not in before["tasks"]["ner"]
    assert FinetuneConfig.model_validate(before).tasks["ner"].steps == 10


def test_folders_of_trainings() -> None:
    tasks = recipe(ner={"seed": 4}, qa={"seed": 4, "repeats": 3}).finetune.tasks
    assert tasks["ner"].trainings("ner") == {"ner": 4}
    assert tasks["qa"].trainings("qa") == {"qa-4": 4, "qa-5": 5, "qa-6": 6}
