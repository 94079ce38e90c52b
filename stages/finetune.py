"""``reforge finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_core.files import write_json
from stages.options import DEFAULT_PARAMS, DryRun, LayoutOption, Overrides, Params, ProfileOption
from stages.run import RUNS, StageRun, stage_run

if TYPE_CHECKING:
    from megatron_core.config import ContinuedConfig, TaskConfig
    from megatron_core.exchange import ModelFolder
    from megatron_core.parallel.mesh import Mesh
    from megatron_core.trainer import Examples
    from megatron_core.tuning import Scores, Task
    from stages.training import Trained


def finetune(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    layout: LayoutOption = "auto",
    profile: ProfileOption = False,
) -> None:
    """Adapt the pretrained model to a domain, then fine-tune it for tasks.

    First `continued` pretraining on the domain's sources, if the recipe has it. Then each of
    `tasks`, from the model that its `start` names: classes of texts or pairs of texts, numbers
    for them, entities, relations, answers to questions, instructions, preferences. `adapter`
    trains low-rank changes (`kind: lora`) or a `soft_prompt` in place of the weights. The scores
    of a task stand beside those of simple baselines on the same examples; with `repeats` it is
    trained with several seeds, and the scores are over all of them.

    Every training is left in `artifacts/finetune/NAME`, with `NAME/whole` the whole model where
    an adapter was trained, and the scores in `artifacts/finetune/results/NAME.json`. All resume
    like `pretrain`, and take `--layout` as it does.
    """
    with stage_run(
        "finetune",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["pretrain", "tokenize", "tokenizer", "decontaminate"],
        layout=layout,
    ) as run:
        from megatron_core.config import training_runs
        from megatron_core.parallel.mesh import open_mesh

        config = run.recipe.finetune
        trainings = training_runs(run.recipe)
        first = next((one for name, one in trainings.items() if name != "pretrain"), None)
        models = {"pretrain": run.input("pretrain")}  # by name, wherever all ranks can read them
        content: dict[str, str] = {}
        metrics: dict[str, Any] = {}
        rows: dict[str, Any] = {}
        with open_mesh(
            run.layout, first.device if first else "cpu", first.threads if first else 1
        ) as mesh:
            if config.continued is not None:
                trained = _continue(run, config.continued, mesh, profile=profile)
                models["continued"] = trained.path
                content["continued"] = trained.checkpoint.root
                metrics["continued"] = trained.metrics
                rows["continued, held-out loss"] = trained.metrics.get("heldout_loss", "none")
            for name, task in config.tasks.items():
                roots, results = _tune(run, name, task, models, mesh, profile=profile)
                content |= roots
                metrics[name] = results["scores"] if results else {}
                rows |= _rows(name, results)
        run.content = content
        run.metrics(metrics)
        run.summary(rows)


def _continue(run: StageRun, config: ContinuedConfig, mesh: Mesh, *, profile: bool) -> Trained:
    """Continued pretraining from the last checkpoint of ``pretrain``."""
    from megatron_core.exchange import ModelFolder
    from megatron_core.trainer.assemble import continued_pretraining
    from stages.training import train

    start = ModelFolder.open(run.input("pretrain"))
    inputs = {"tokenize": run.input_roots["tokenize"]}
    training = continued_pretraining(config, start, run.input("tokenize"), inputs, RUNS, mesh)
    return train(training, run.output / "continued", profile=profile)


def _tune(
    run: StageRun, name: str, config: TaskConfig, models: dict[str, Path], mesh: Mesh,
    *, profile: bool,
) -> tuple[dict[str, str], dict[str, Any]]:  # fmt: skip
    """The roots of a task's trainings by folder, and on the first rank its results."""
    from megatron_core.exchange import ModelFolder
    from megatron_core.trainer.assemble import fine_tuning
    from megatron_core.trainer.examples import ExampleObjective, tell
    from megatron_core.tuning import Place, open_task, prompt_of, summarize
    from stages.training import train

    before = config.start or ("continued" if "continued" in models else "pretrain")
    start = ModelFolder.open(models[before])
    place = Place(run.input("tokenizer"), run.input("decontaminate"), start.config)
    task = open_task(config, place)
    inputs = {stage: run.input_roots[stage] for stage in ("tokenizer", "decontaminate")} | dict(
        task.inputs
    )
    examples, start_scores = _with_start(task, config, start, mesh)
    prompt = prompt_of(config.adapter)
    train_examples, test = (one.behind(prompt) for one in examples)
    roots, scores = {}, []
    for folder, seed in config.trainings(name).items():
        objective = ExampleObjective(train_examples, test, seed=seed)
        training = fine_tuning(
            name, config.model_copy(update={"seed": seed}), config.adapter, start, task.make,
            objective, task.description, inputs, RUNS, mesh,
        )  # fmt: skip
        trained = train(training, run.output / folder, profile=profile)
        models[name], roots[folder] = trained.path, trained.checkpoint.root
        told = task.score(tell(training.engine, test))
        if task.generate is not None and mesh.is_first:
            told |= task.generate(trained.path, mesh)
        scores.append(told)
    if not mesh.is_first:
        return roots, {}
    results = summarize(task, config, scores, start_scores)
    write_json(run.output / "results" / f"{name}.json", results)
    return roots, results


def _with_start(
    task: Task, config: TaskConfig, start: ModelFolder, mesh: Mesh
) -> tuple[tuple[Examples, Examples], Scores]:
    """The examples, with what the model before the training tells of them where they hold that,
    and that model's scores."""
    from megatron_core.trainer.assemble import tell_start

    if task.make_start is None:
        return (task.train, task.test), {}
    told = tell_start(start, task.make_start, config, task.test, mesh)
    scores = task.score(told)
    if task.generate is not None and mesh.is_first:
        scores |= task.generate(start.path, mesh)
    if task.refer is None:
        return (task.train, task.test), scores
    known = tell_start(start, task.make_start, config, task.train, mesh)
    return (task.refer(task.train, known), task.refer(task.test, told)), scores


def _rows(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """Rows of the summary: the metric that counts, of the model and of the baselines."""
    if not results:
        return {}
    metric = results["metric"]
    return {
        f"{name}, {metric}, {who.replace('_', ' ')}": scores[metric]["value"]
        for who, scores in results["scores"].items()
        if metric in scores
    }
