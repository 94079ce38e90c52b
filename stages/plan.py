"""``reforge plan``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console

from megatron_core.config import TrainingConfig, load_recipe
from megatron_core.config.presets import read_model
from megatron_core.errors import ConfigError
from megatron_core.parallel.layout import Layout
from stages.options import DEFAULT_PARAMS, Overrides, Params

if TYPE_CHECKING:
    from megatron_core.planning.job import Job
    from megatron_core.planning.tuning import TuningPlan


def plan(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|FILE", help="A published model instead of the recipe's."
        ),
    ] = None,
    layout: Annotated[
        str,
        typer.Option("--layout", metavar="data=N,…", help="Ranks per dimension."),
    ] = "data=1",
    hardware: Annotated[
        str,
        typer.Option(
            "--hardware", metavar="NAME|FILE", help="a100-80gb, h100, h200, laptop, or a YAML file."
        ),
    ] = "laptop",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sequences per step; 8 microbatches per pipeline rank for a model."
        ),
    ] = None,
    microbatch: Annotated[
        int | None, typer.Option(min=1, help="Sequences per forward pass.")
    ] = None,
    sequence: Annotated[int | None, typer.Option(min=1, help="Tokens per sequence.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    recompute: Annotated[str | None, typer.Option(help="none, selective or full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print what a layout takes before renting it: parameters, memory, traffic, time.

    Plans the recipe's pretraining, its continued pretraining where the former takes no step, or a
    published model by name. Of each training of `finetune` it says how many weights are trained
    and how many frozen, the arithmetic of a token and the memory; the options below that change a
    training do not reach these. The memory figures are held to measured ones by the tests. The
    time is that of a well-tuned run: with nothing fitted, the published runs of Megatron-LM on 32
    to 3,072 GPUs took 5 to 15 % longer than planned, those of MT-NLG 34 to 40 %
    (`benchmarks/results/plan.md`).
    """
    from megatron_core.planning.flops import Recompute
    from megatron_core.planning.hardware import Precision

    chosen = Layout.parse(layout)
    job, tuned = _recipe(params, overrides, chosen) if model is None else _model(model, chosen)
    changes: dict[str, Any] = {
        "batch": batch,
        "microbatch": microbatch,
        "sequence": sequence,
        "precision": _one_of("precision", precision, get_args(Precision)),
        "recompute": _one_of("recompute", recompute, get_args(Recompute)),
    }
    if job is not None:
        job = replace(job, **{name: value for name, value in changes.items() if value is not None})
        if model is not None and batch is None:
            job = replace(job, batch=8 * chosen.data * chosen.pipeline * job.microbatch)
    _print(job, tuned, hardware, as_json)


def _print(job: Job | None, tuned: list[TuningPlan], hardware: str, as_json: bool) -> None:
    from megatron_core.planning.hardware import Hardware
    from megatron_core.planning.plan import make_plan
    from megatron_core.planning.presets import read_preset
    from megatron_core.planning.software import Software
    from megatron_core.planning.tables import plan_tables, tuning_table, verdict

    machine = read_preset(Hardware, "hardware", hardware)
    made = None
    if job is not None:
        made = make_plan(job, machine, read_preset(Software, "software", "reforge"))
    if as_json:
        found = {} if made is None else made.as_json()
        found |= {"finetune": {plan.name: plan.as_json() for plan in tuned}} if tuned else {}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    console, name = Console(), Path(hardware).stem
    if made is not None:
        for table in plan_tables(made, name):
            console.print(table)
        console.print(verdict(made), highlight=False)
    if tuned:
        console.print(tuning_table(tuned, machine, name))
    for plan in tuned:
        for problem in plan.problems:
            console.print(f"{plan.name}: {problem}", highlight=False)


def _recipe(
    params: Path, overrides: list[str] | None, layout: Layout
) -> tuple[Job | None, list[TuningPlan]]:
    """The pretraining, or the continued one where no step is taken before; and the others."""
    from megatron_core.planning.job import Job
    from megatron_core.planning.tuning import plan_tuning

    recipe = load_recipe(params, overrides or ())
    run: TrainingConfig | None = recipe.pretrain if recipe.pretrain.steps else None
    continued = recipe.finetune.continued
    if run is None and continued is not None and continued.adapter is None:
        run = continued
    tuned = plan_tuning(recipe, layout)
    if run is None and not tuned:
        raise ConfigError(
            f"{params}: there is nothing to plan, since pretrain.steps is 0 and finetune trains "
            "nothing"
        )
    return None if run is None else Job.of(run, recipe.pretrain.model, layout), tuned


def _model(model: str, layout: Layout) -> tuple[Job, list[TuningPlan]]:
    """A published model in bf16 on a grid of the layout's degrees."""
    from megatron_core.planning.job import Job

    config = read_model(model)
    return Job(config, layout, sequence=config.positions, batch=1), []


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise ConfigError(f"--{option} {value}: must be one of {', '.join(allowed)}")
    return value
