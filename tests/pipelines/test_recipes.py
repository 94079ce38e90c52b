"""The recipes that people start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from megatron_core.config import STAGES, load_recipe, training_runs
from megatron_core.config.files import named_files
from megatron_core.data.tuning.instructions import read_prompts
from megatron_core.parallel.layout import Layout
from megatron_core.planning.hardware import Hardware
from megatron_core.planning.job import Job
from megatron_core.planning.plan import make_plan
from megatron_core.planning.presets import read_preset
from megatron_core.planning.software import Software
from stages.init import recipes, scales

PIPELINES = Path(__file__).parents[2] / "pipelines"
FILES = [PIPELINES / name / file for name in recipes() for file in scales(name).values()]
# Eight nodes of eight GPUs, or fewer where the grid has fewer shards.
LAYOUTS = {
    "gatortron": "data=64",
    "gatortrongpt": "data=32,tensor=2",
    "domain_adaptation": "data=16",
}
CLINICAL = ("gatortron", "gatortrongpt", "domain_adaptation")


def test_all_folders_are_recipes() -> None:
    folders = sorted(path.name for path in PIPELINES.iterdir() if (path / "dvc.yaml").exists())
    assert folders == recipes()
    assert set(LAYOUTS) | {"laptop"} == set(folders)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_is_valid_at_each_scale(file: Path) -> None:
    load_recipe(file)


@pytest.mark.parametrize("name", recipes())
def test_its_pipeline_has_the_stages_of_the_recipe(name: str) -> None:
    pipeline = yaml.safe_load((PIPELINES / name / "dvc.yaml").read_text())
    assert tuple(pipeline["stages"]) == STAGES
    for stage, settings in pipeline["stages"].items():
        assert settings["cmd"] == f"reforge {stage}"
        assert settings["params"] == [stage]


@pytest.mark.parametrize("name", LAYOUTS)
def test_full_scale_fits_a_cluster(name: str) -> None:
    recipe = load_recipe(PIPELINES / name / "params.yaml")
    hardware = read_preset(Hardware, "hardware", "h100")
    software = read_preset(Software, "software", "reforge")
    planned = [run for path, run in training_runs(recipe).items() if run.steps]
    for run in planned:
        wanted = Layout.parse(LAYOUTS[name])
        if run is not planned[0]:
            wanted = Layout(data=min(wanted.data, run.grid.data), tensor=run.grid.tensor)
        plan = make_plan(Job.of(run, recipe.pretrain.model, wanted), hardware, software)
        assert plan.fits, run


@pytest.mark.parametrize("name", CLINICAL)
def test_clinical_recipes_deidentify_and_hold_out_patients(name: str) -> None:
    recipe = load_recipe(PIPELINES / name / "params.yaml")
    assert recipe.curate.deidentify is not None
    assert len(recipe.curate.deidentify.classes) == 18
    if name != "domain_adaptation":  # whose texts may be of anything
        assert recipe.decontaminate.heldout_by == "patient"
        assert "patient" in recipe.ingest.sources["notes"].metadata  # type: ignore[union-attr]
    assert not recipe.evaluate.hub


def test_what_is_published_of_gatortron() -> None:
    recipe = load_recipe(PIPELINES / "gatortron/params.yaml")
    pretrain, model = recipe.pretrain, recipe.pretrain.model
    assert (model.layers, model.hidden, model.heads, model.ffn) == (24, 1024, 16, 4096)
    assert model.vocabulary == recipe.tokenizer.vocabulary == 50_176  # type: ignore[union-attr]
    assert recipe.tokenizer.kind == "wordpiece"
    assert pretrain.masking.pairs == "sentence_order"
    rate = pretrain.optimizer.learning_rate
    assert (rate, rate * pretrain.schedule.final) == (1e-4, pytest.approx(1e-5))
    assert pretrain.schedule.warmup_steps == pretrain.steps / 100
    assert (pretrain.batch.sequences, pretrain.sequence_length) == (3968, 512)
    kinds = [task.kind for task in recipe.finetune.tasks.values()]
    assert kinds == ["entities", "relations", "similarity", "classification", "answers"]


def test_what_is_published_of_gatortrongpt() -> None:
    recipe = load_recipe(PIPELINES / "gatortrongpt/params.yaml")
    pretrain, model = recipe.pretrain, recipe.pretrain.model
    assert (model.layers, model.hidden, model.heads) == (24, 4096, 32)
    assert (pretrain.batch.sequences, pretrain.sequence_length) == (960, 2048)
    assert pretrain.grid.tensor == 2
    (task,) = recipe.finetune.tasks.values()
    assert task.adapter is not None
    assert task.adapter.kind == "soft_prompt"


@pytest.mark.parametrize("name", [name for name in recipes() if "tiny" in scales(name)])
def test_tiny_scale_asks_for_nothing_that_is_not_there(name: str) -> None:
    named = named_files(load_recipe(PIPELINES / name / "tiny.yaml"))
    missing = {
        path for paths in named.values() for path in paths if not (PIPELINES / name / path).exists()
    }
    assert missing == ({"model"} if name == "domain_adaptation" else set())


def test_the_made_up_dialogues_are_read() -> None:
    found = read_prompts(
        PIPELINES / "gatortrongpt/dialogues.csv", prompt="{dialogue}", response="section_text"
    )
    assert len(found.items) == 24
    assert all(turn.content for one in found.items for turn in one.turns)
