"""Checks across sections, the identity of a section, and the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from megatron_core.config import STAGES, Recipe, Section
from megatron_core.config.presets import model_names, read_model
from megatron_core.config.recipe import cross_section_problems, training_runs


def raw_training() -> dict[str, Any]:
    return {
        "steps": 10, "sequence_length": 32, "batch": {"sequences": 16, "microbatch": 2},
        "grid": {"data": 4}, "schedule": {"warmup_steps": 2},
    }  # fmt: skip


def raw_recipe() -> dict[str, Any]:
    """A small recipe without problems."""
    model = {
        "vocabulary": 512, "positions": 64, "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2,
        "ffn": 48,
    }  # fmt: skip
    return {
        "ingest": {
            "sources": {
                "codes": {"kind": "icd10cm"},
                "terms": {"kind": "hpo"},
                "notes": {"kind": "jsonl", "path": "x"},
            }
        },
        "tokenizer": {"vocabulary": 512},
        "pretrain": {**raw_training(), "model": model, "sources": {"notes": 1.0}},
        "finetune": {
            "continued": {**raw_training(), "sources": {"codes": 1.0, "notes": 0.1}},
            "tasks": {
                "chapters": {
                    **raw_training(),
                    "kind": "classification",
                    "examples": {"kind": "chapters", "source": "codes"},
                },
                "chat": {
                    **raw_training(),
                    "kind": "instructions",
                    "examples": {"train": "chat.jsonl"},
                },
            },
        },
        "evaluate": {"context": 64, "question_source": "terms"},
    }


def changed(raw: dict[str, Any], path: str, value: Any) -> Recipe:
    """The recipe with the value at the dotted ``path`` replaced."""
    *parents, last = path.split(".")
    node = raw
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return Recipe.model_validate(raw)


def encoder(raw: dict[str, Any]) -> Recipe:
    """The same of an encoder, without what only decoders do."""
    raw["finetune"]["tasks"].pop("chat")
    raw["evaluate"]["question_source"] = None
    return changed(raw, "pretrain.model.kind", "encoder")


def test_what_lm_eval_asks_is_asked_of_decoders() -> None:
    raw = raw_recipe()
    encoder(raw)
    for field, value in (("question_source", "terms"), ("tasks", ["arc"])):
        raw["evaluate"] = {field: value}
        (found,) = cross_section_problems(Recipe.model_validate(raw))
        assert found.path == f"evaluate.{field}"
        assert "is of decoders alone" in found.message


def test_the_recipe_they_start_from_has_none() -> None:
    assert list(cross_section_problems(Recipe.model_validate(raw_recipe()))) == []


TRAINING = [
    ("batch.sequences", 12, "batch.sequences", "grid.data × batch.microbatch = 4 × 2"),
    ("grid.data", 16, "batch.sequences", "must be a multiple of"),
    ("batch.microbatch", 3, "batch.sequences", "must be a multiple of"),
    ("sequence_length", 65, "sequence_length", "must not exceed pretrain.model.positions = 64"),
    ("schedule.warmup_steps", 10, "schedule.warmup_steps", "must be below steps = 10"),
    ("steps", 2, "schedule.warmup_steps", "must be below steps = 2"),
    ("grid.tensor", 4, "grid.tensor", "must divide pretrain.model.kv_heads = 2"),
    ("grid.tensor", 8, "grid.tensor", "must divide pretrain.model.heads = 4"),
    ("grid.tensor", 32, "grid.tensor", "must divide the feed-forward width = 48"),
    ("grid.tensor", 1024, "grid.tensor", "must divide pretrain.model.vocabulary = 512"),
    (
        "grid", {"tensor": 2, "context": 32}, "grid.tensor",
        "must divide a context chunk, sequence_length / grid.context = 1",
    ),
    ("grid.context", 64, "grid.context", "must divide sequence_length = 32"),
]  # fmt: skip
CHAPTERS, CHAT = "finetune.tasks.chapters", "finetune.tasks.chat"
RUNS = ("pretrain", "finetune.continued", CHAPTERS, CHAT)


@pytest.mark.parametrize(
    ("change", "value", "where", "message"),
    [
        ("pretrain.model.heads", 5, "pretrain.model.heads", "must divide hidden = 32"),
        ("pretrain.model.heads", 32, "pretrain.model.heads", "need an even head size, not 1"),
        ("pretrain.model.kv_heads", 3, "pretrain.model.kv_heads", "must divide heads = 4"),
        ("tokenizer.vocabulary", 513, "pretrain.model.vocabulary", "the tokenizer's 513 entries"),
        ("evaluate.context", 65, "evaluate.context", "must not exceed pretrain.model.positions"),
        ("pretrain.sources", {"nots": 1.0}, "pretrain.sources.nots", "codes, terms, notes"),
        ("pretrain.sources", {"notes": 0.0}, "pretrain.sources.notes", "must be above 0"),
        (
            "finetune.continued.sources", {"notes": -1.0}, "finetune.continued.sources.notes",
            "must be above 0",
        ),
        (
            f"{CHAPTERS}.examples.source", "terms", f"{CHAPTERS}.examples.source",
            "must name a source of kind icd10cm",
        ),
        (
            f"{CHAPTERS}.examples.source", "code", f"{CHAPTERS}.examples.source",
            "is not one of ingest.sources: codes, terms, notes",
        ),
        ("evaluate.question_source", "codes", "evaluate.question_source", "of kind hpo"),
        ("evaluate.question_source", "x", "evaluate.question_source", "is not one of"),
        (
            f"{CHAPTERS}.grid.context", 2, f"{CHAPTERS}.grid.context",
            "must be 1: a task of kind classification sees its texts whole",
        ),
        (
            "pretrain.model.experts", {"count": 4, "chosen": 5}, "pretrain.model.experts.chosen",
            "must not exceed count = 4",
        ),
        (
            "pretrain.model.experts", {"count": 4, "chosen": 1}, "pretrain.model.experts.normalize",
            "must be false when chosen is 1",
        ),
        *(
            (f"{run}.{change}", value, f"{run}.{where}", message)
            for run in RUNS
            for change, value, where, message in TRAINING
        ),
    ],
)  # fmt: skip
def test_what_no_section_can_see_alone(
    change: str, value: Any, where: str, message: str
) -> None:  # fmt: skip
    found = list(cross_section_problems(changed(raw_recipe(), change, value)))
    assert any(p.path == where and message in p.message for p in found), found


@pytest.mark.parametrize("section", ["pretrain", "finetune.continued"])
@pytest.mark.parametrize(
    ("masking", "where", "message"),
    [
        ({"token": 512}, "token", "must be below pretrain.model.vocabulary = 512"),
        ({"masked": 0.8, "random": 0.3}, "random", "must not exceed 1 - masked = 0.2"),
    ],
)
def test_masking_is_checked_where_it_is_used(
    section: str, masking: dict[str, Any], where: str, message: str
) -> None:
    raw = raw_recipe()
    recipe = changed(raw, f"{section}.masking", masking)
    assert list(cross_section_problems(recipe)) == []  # a decoder has no use for it
    (found,) = cross_section_problems(encoder(raw))
    assert found.path == f"{section}.masking.{where}"
    assert message in found.message


def pair_recipe() -> dict[str, Any]:
    """A recipe of pairs without problems."""
    raw = raw_recipe()
    encoder(raw)
    raw["pretrain"]["model"] |= {"token_types": 2, "pooler": True}
    for run in (raw["pretrain"], raw["finetune"]["continued"]):
        run["masking"] = {"framed": True, "pairs": "sentence_order"}
    return raw


@pytest.mark.parametrize(
    ("change", "value", "problems"),
    [
        ("steps", 11, {}),
        ("masking.pairs", "next_sentence", {}),
        ("masking.framed", False, {"{run}.masking.framed": "must be true: [SEP] stands between"}),
        (
            "reset_at_documents",
            True,
            {"{run}.reset_at_documents": "must be false: the segments see each other"},
        ),
        ("packing", "best_fit", {"{run}.packing": "must be concatenate, its default"}),
        ("masking.pairs", "none", {"{run}.masking.pairs": "train the layers of pretrain.model.po"}),
    ],
)
@pytest.mark.parametrize("run", ["pretrain", "finetune.continued"])
def test_what_pairs_need_of_a_run(
    run: str, change: str, value: Any, problems: dict[str, str]
) -> None:  # fmt: skip
    found = {
        p.path: p.message
        for p in cross_section_problems(changed(pair_recipe(), f"{run}.{change}", value))
    }
    assert found.keys() == {path.format(run=run) for path in problems}
    for path, message in problems.items():
        assert message in found[path.format(run=run)]


@pytest.mark.parametrize(
    ("field", "value", "paths", "message"),
    [
        ("pooler", False, ["pretrain.model.pooler"] * 2, "must be true"),
        ("token_types", 1, ["pretrain.model.token_types"] * 2, "must be at least 2"),
        ("kind", "decoder", [
            "pretrain.model.pooler", "pretrain.masking.pairs", "finetune.continued.masking.pairs",
        ], "of encoders alone"),
    ],
)  # fmt: skip
def test_what_pairs_need_of_the_model(
    field: str, value: Any, paths: list[str], message: str
) -> None:
    found = list(cross_section_problems(changed(pair_recipe(), f"pretrain.model.{field}", value)))
    assert [p.path for p in found] == paths
    assert all(message in p.message for p in found)


ENCODERS = [name for name in model_names() if read_model(name).kind == "encoder"]


@pytest.mark.parametrize("name", ENCODERS)
def test_published_encoders_can_be_trained_as_they_were(name: str) -> None:
    model = read_model(name).model_dump()
    assert list(cross_section_problems(changed(pair_recipe(), "pretrain.model", model))) == []


def test_experts_have_a_width_of_their_own() -> None:
    raw = raw_recipe()
    raw["pretrain"]["model"]["experts"] = {"count": 4, "chosen": 2, "ffn": 9}
    (found,) = cross_section_problems(changed(raw, "pretrain.grid.tensor", 2))
    assert found.path == "pretrain.grid.tensor"
    assert "must divide the feed-forward width = 9" in found.message


@pytest.mark.parametrize("run", ["pretrain", "finetune.continued"])
def test_every_dimension_of_the_grid_is_trained(run: str) -> None:
    grid = {"data": 4, "tensor": 2, "context": 8}
    assert list(cross_section_problems(changed(raw_recipe(), f"{run}.grid", grid))) == []


def test_the_table_of_runs_above_is_all_of_them() -> None:
    assert tuple(training_runs(Recipe.model_validate(raw_recipe()))) == RUNS


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("checkpoints.every", 7, False),
        ("checkpoints.keep_last", 7, False),
        ("validate_every", 7, False),
        ("trackers", [], False),
        ("recompute", "full", False),
        ("bucket_megabytes", 1.0, False),
        ("fingerprint_every", 0, False),
        ("hang_after", 9, False),
        ("steps", 11, True),
        ("seed", 2, True),
        ("threads", 2, True),
        ("precision", "bf16", True),
        ("device", "cuda", True),
        ("grid.data", 2, True),
        ("grid.tensor", 2, True),
        ("grid.context", 2, True),
        ("loss_scale.initial", 2, True),
        ("batch.microbatch", 1, True),
        ("optimizer.clip", 2.0, True),
        ("schedule.final", 0.2, True),
    ],
)
def test_the_identity_is_of_what_can_change_a_bit(
    run: str, field: str, value: Any, changes: bool
) -> None:
    section = run.partition(".")[0]
    before = getattr(Recipe.model_validate(raw_recipe()), section).identity()
    after = getattr(changed(raw_recipe(), f"{run}.{field}", value), section).identity()
    assert (before != after) == changes


@pytest.mark.parametrize("execution", [{"workers": 3}, {"kind": "slurm", "partition": "cpu"}])
def test_what_stages_run_on_is_no_section_of_a_stage(execution: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(raw_recipe() | {"execution": execution})
    assert recipe.execution.model_dump(exclude_unset=True) == execution
    assert "execution" not in STAGES


def sections(parent: type[Section]) -> Iterator[type[Section]]:
    """Every subclass of ``parent``."""
    for kind in parent.__subclasses__():
        yield kind
        yield from sections(kind)


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = Recipe.model_json_schema()
    for name, definition in [("Recipe", schema), *schema["$defs"].items()]:
        for field, description in definition["properties"].items():
            yield f"{name}.{field}", description


@pytest.mark.parametrize(("name", "schema"), [pytest.param(*f, id=f[0]) for f in fields()])
def test_every_field_says_what_it_is(name: str, schema: dict[str, Any]) -> None:
    tag = "const" in schema  # of a union: its class says it
    assert tag or schema.get("description"), f"{name} has no description"


@pytest.mark.parametrize("kind", [*sections(Section)], ids=lambda kind: kind.__name__)
def test_every_section_is_strict_and_documented(kind: type[Section]) -> None:
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["frozen"]
    assert kind.__doc__


@pytest.mark.parametrize("section", ["pretrain", "finetune.continued"])
@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"packing": "best_fit"}, "packing", "must be concatenate with order: megatron"),
        ({"sources": {}}, "sources", "must name the sources with order: megatron"),
    ],
)
def test_megatrons_order_is_of_documents_end_to_end(
    section: str, change: dict[str, Any], where: str, message: str
) -> None:
    raw = raw_recipe()
    changed(raw, f"{section}.order", "megatron")
    assert list(cross_section_problems(Recipe.model_validate(raw))) == []
    ((field, value),) = change.items()
    (found,) = cross_section_problems(changed(raw, f"{section}.{field}", value))
    assert found.path == f"{section}.{where}"
    assert message in found.message


def test_frames_of_documents_that_see_themselves_need_room() -> None:
    raw = raw_recipe()
    encoder(raw)
    raw["pretrain"] |= {"reset_at_documents": True, "masking": {"framed": True}}
    (found,) = cross_section_problems(Recipe.model_validate(raw))
    assert found.path == "pretrain.packing"
    assert "must be best_fit" in found.message
    raw["pretrain"]["packing"] = "best_fit"
    assert list(cross_section_problems(Recipe.model_validate(raw))) == []
