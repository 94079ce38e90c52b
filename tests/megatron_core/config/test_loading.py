"""What a user hears about a wrong recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_core.config import Recipe, load_recipe
from megatron_core.config.presets import read_model
from megatron_core.errors import ConfigError

ROOT = Path(__file__).parents[3]
RECIPES = [ROOT / "params.yaml", *sorted((ROOT / "pipelines").glob("*/params.yaml"))]
SMALL = """\
ingest:
  sources:
    codes: {kind: icd10cm}
    terms: {kind: hpo}
    notes: {kind: jsonl, path: notes.jsonl}
finetune:
  tasks:
    chapters: {kind: classification, examples: {kind: chapters, source: codes}}
    ner: {kind: entities, examples: {train: notes}}
evaluate: {question_source: terms}
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(SMALL)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    """The lines of the error, without the first, which counts them."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    first, *lines = str(caught.value).splitlines()
    count = re.search(r"has (\d+) problems?; nothing was run or written", first)
    assert count is not None
    assert int(count[1]) == len(lines)
    return [line.strip() for line in lines]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.parent.name)
def test_every_recipe_loads(recipe: Path) -> None:
    assert isinstance(load_recipe(recipe), Recipe)


def test_all_problems_are_said_at_once_with_their_paths(params: Path) -> None:
    lines = problems(
        params, "pretrain.steps=-1", "pretrain.model.layers=two", "curate.min_alphabetic=1.5",
        "dedup.seed=-1", "convert.dtype=float64", "pretrain.grid.data=3", "ingest.shards=null",
        "finetune.continued.optimizer.beta1=1",
    )  # fmt: skip
    assert {line.split(":")[0] for line in lines} == {
        "pretrain.steps = -1",
        "pretrain.model.layers = 'two'",
        "curate.min_alphabetic = 1.5",
        "dedup.seed = -1",
        "convert.dtype = 'float64'",
        "pretrain.grid.data = 3",
        "ingest.shards",
        "finetune.continued.optimizer.beta1 = 1",
    }
    text = "\n".join(lines)
    for allowed in (
        "greater than or equal to 0", "valid integer", "less than or equal to 1",
        "'float32', 'bfloat16' or 'float16'", "must be a power of two", "less than 1",
    ):  # fmt: skip
        assert allowed in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrian.steps=3", "pretrian: unknown key; did you mean `pretrain`?"),
        ("pretrain.stpes=3", "pretrain.stpes: unknown key; did you mean `steps`?"),
        (
            "pretrain.optimizer.learning_rte=1e-3",
            "pretrain.optimizer.learning_rte: unknown key; did you mean `learning_rate`?",
        ),
        (
            "finetune.continued.checkpoints.evry=3",
            "finetune.continued.checkpoints.evry: unknown key; did you mean `every`?",
        ),
        (
            "ingest.sources.notes.pth=x",
            "ingest.sources.notes.pth: unknown key; did you mean `path`?",
        ),
        (
            "pretrain.grid.zzz=1",
            "pretrain.grid.zzz: unknown key; allowed here: data, tensor, context",
        ),
        (
            "finetune.tasks.chapters.examples.suorce=codes",
            "finetune.tasks.chapters.examples.suorce: unknown key; did you mean `source`?",
        ),
        (
            "finetune.tasks.ner.examples.trian=notes",
            "finetune.tasks.ner.examples.trian: unknown key; did you mean `train`?",
        ),
        (
            "finetune.tasks.ner.stpes=3",
            "finetune.tasks.ner.stpes: unknown key; did you mean `steps`?",
        ),
        (
            "finetune.tasks.ner.adapter={kind: lora, rnak: 3}",
            "finetune.tasks.ner.adapter.rnak: unknown key; did you mean `rank`?",
        ),
        (
            "finetune.continued.adapter={rnak: 3}",
            "finetune.continued.adapter.rnak: unknown key; did you mean `rank`?",
        ),
    ],
)
def test_unknown_keys_get_a_suggestion(params: Path, override: str, message: str) -> None:
    assert problems(params, override) == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "ingest.sources.notes.kind=jsonlines",
            "ingest.sources.notes.kind = 'jsonlines': must be one of 'gensim_wikipedia', "
            "'icd10cm', 'hpo', 'jsonl'",
        ),
        ("ingest.sources.notes={path: x}", "ingest.sources.notes.kind: is required and missing"),
        ("ingest.sources.notes={kind: parquet}", "ingest.sources.notes.path: is required and "),
        ("ingest.sources.notes.text=3", "ingest.sources.notes.text = 3: should be a valid string"),
        ("ingest.sources={}", "ingest.sources: "),
        ("ingest.sources.Notes={kind: hpo}", "ingest.sources.Notes"),
    ],
)
def test_sources_are_checked_by_their_kind(params: Path, override: str, message: str) -> None:
    (line,) = problems(params, override)
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.tasks.ner.kind=ner", "finetune.tasks.ner.kind = 'ner': must be one of"),
        ("finetune.tasks.ner={steps: 3}", "finetune.tasks.ner.kind: is required and missing"),
        (
            "finetune.tasks.ner={kind: entities}",
            "finetune.tasks.ner.examples: is required and missing",
        ),
        (
            "finetune.tasks.chapters.examples={source: codes}",
            "finetune.tasks.chapters.examples.kind: is required and missing",
        ),
        (
            "finetune.tasks.ner.adapter={kind: prefix}",
            "finetune.tasks.ner.adapter.kind = 'prefix': must be one of 'lora', 'soft_prompt'",
        ),
        ("finetune.tasks.ner.examples.heldout=1.5", "finetune.tasks.ner.examples.heldout = 1.5: "),
        ("finetune.tasks.NER={kind: entities, examples: {train: x}}", "finetune.tasks.NER"),
        ("finetune.classification={source: codes}", "finetune.classification: unknown key; "),
    ],
)
def test_tasks_are_checked_by_their_kind(params: Path, override: str, message: str) -> None:
    (line,) = problems(params, override)
    assert line.startswith(message)


def test_overrides_are_yaml_and_may_make_sections(params: Path) -> None:
    recipe = load_recipe(
        params,
        [
            "pretrain.optimizer.learning_rate=2e-4", "pretrain.sources={notes: 0.5}",
            "pretrain.trackers=[]", "report.title=a = b", "ingest.max_documents=7",
        ],
    )  # fmt: skip
    assert recipe.pretrain.optimizer.learning_rate == 2e-4
    assert recipe.pretrain.sources == {"notes": 0.5}
    assert recipe.pretrain.trackers == []
    assert recipe.report.title == "a = b"
    assert recipe.ingest.max_documents == 7
    assert load_recipe(params).ingest.max_documents is None


@pytest.mark.parametrize(
    "override",
    ["pretrain.steps='3'", "pretrain.steps=yes", "pretrain.steps=3.0", "audit.replay=1",
     "pretrain.optimizer.clip='1.0'", "report.title=3"],
)  # fmt: skip
def test_a_value_of_another_type_is_not_bent(params: Path, override: str) -> None:
    path = override.partition("=")[0]
    (line,) = problems(params, override)
    assert line.startswith(f"{path} = ")
    assert "should be a valid" in line


def test_a_whole_number_is_a_number(params: Path) -> None:
    assert load_recipe(params, ["pretrain.optimizer.clip=1"]).pretrain.optimizer.clip == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.steps", "--set pretrain.steps: write it as section.key=value"),
        ("=3", "--set =3: write it as section.key=value"),
        ("ingest.sources.notes.kind.deep=3", "`kind` holds a value, not a section"),
        ("pretrain.steps=[", "--set pretrain.steps=[: the value is not valid YAML"),
        ("pretrain.sources={a: 1, a: 2}", "the value is not valid YAML"),
    ],
)
def test_malformed_overrides_are_refused(params: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_recipe(params, [override])


@pytest.mark.parametrize("number", ["3e-4", "3E-4", "3.0e-4", "0.0003", "+3e-4"])
def test_numbers_with_exponents_are_numbers(params: Path, number: str) -> None:
    params.write_text(SMALL + f"pretrain: {{optimizer: {{learning_rate: {number}}}}}\n")
    assert load_recipe(params).pretrain.optimizer.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "`a` is given twice"),
        ("pretrain: {steps: 1, model: {layers: 2, layers: 2}}", "`layers` is given twice"),
        ("a: [", "is not valid YAML"),
        ("- a\n", "must be a mapping of sections, not list"),
        ("", "must be a mapping of sections, not NoneType"),
        ("3", "must be a mapping of sections, not int"),
    ],
)
def test_what_is_no_recipe_is_refused(params: Path, text: str, message: str) -> None:
    params.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_recipe(params)
    assert str(params) in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist: run in a project's folder"):
        load_recipe(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "bytes.yaml")


def test_a_preset_gives_the_fields_that_are_not_given(params: Path) -> None:
    params.write_text(SMALL + "pretrain: {model: {preset: gpt2, layers: 2}}\n")
    given = load_recipe(params).pretrain.model
    assert given == read_model("gpt2").model_copy(update={"layers": 2})
    mine = params.with_name("mine.yaml")
    mine.write_text("{layers: 3, heads: 2, kv_heads: 1, hidden: 64}")
    assert load_recipe(params, [f"pretrain.model.preset={mine}"]).pretrain.model.hidden == 64
    with pytest.raises(ConfigError, match=r"pretrain.model.preset: .* did you mean gpt2\?"):
        load_recipe(params, ["pretrain.model.preset=gpt-2"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("heads=5", "pretrain.model.heads = 5: must divide hidden = 192, or give head_width"),
        ("head_width=7", "pretrain.model.head_width = 7: rotary positions need an even head size"),
        ("position_embedding=learned;rope_scaling={kind: linear, factor: 2.0}",
         "pretrain.model.rope_scaling: is of rotary positions alone"),
        ("kind=encoder;window=4", "pretrain.model.window = 4: is of decoders alone"),
        ("activation=gelu;experts={}", "pretrain.model.experts: need activation: swiglu"),
    ],
)  # fmt: skip
def test_parts_of_a_model_that_do_not_go_together(
    params: Path, settings: str, problem: str
) -> None:
    found = problems(params, *(f"pretrain.model.{one}" for one in settings.split(";")))
    assert any(problem in line for line in found), found
