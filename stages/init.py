"""``reforge init``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from megatron_core.config import PredictionConfig, Recipe, TaskSettings, load_recipe, training_runs
from megatron_core.config.files import named_files
from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.files import staged_folder, write_text
from stages.run import console

_IGNORED = ("artifacts", "metrics", "runs", "dvc_plots", ".venv")
_FULL = "full"

# DVC's experiments and live curves need a first commit; it is the tool's, whoever the user is.
_COMMANDS = (
    ("git", "init", "--quiet"),
    (sys.executable, "-m", "dvc", "init", "--quiet"),
    (sys.executable, "-m", "dvc", "config", "core.analytics", "false"),
    ("git", "add", "--all"),
    (
        "git", "-c", "user.name=reforge", "-c", "user.email=reforge@localhost",
        "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify",
        "--message=Start from a recipe",
    ),
)  # fmt: skip


def init(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe that comes with Reforge.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to create.")],
    scale: Annotated[
        str, typer.Option(help="`full`, or `tiny`: the same steps in minutes on a laptop.")
    ] = _FULL,
) -> None:
    """Start a project: a folder with `params.yaml` and `dvc.yaml`, ready for `dvc repro`.

    The folder is a git repository with a first commit, and DVC is set up in it. Files that the
    recipe names and you bring are among the `deps` of their stages, and git ignores them: notes
    and models are not committed by accident.
    """
    names = recipes()
    if recipe not in names:
        raise ConfigError(f"there is no recipe {recipe}: choose one of {', '.join(names)}")
    offered = scales(recipe)
    if scale not in offered:
        raise ConfigError(f"--scale {scale}: {recipe} has {' and '.join(offered)}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: name a new folder")
    with staged_folder(folder) as staging:
        with as_file(files("pipelines") / recipe) as source:
            _write(source, offered[scale], staging)
        for command in _COMMANDS:
            _run(command, staging)
    console.print(f"{folder} is ready: cd {folder}, look at params.yaml, then run `dvc repro`")


def recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        entry.name for entry in files("pipelines").iterdir() if (entry / "params.yaml").is_file()
    )


def scales(recipe: str) -> dict[str, str]:
    """The file of each scale that ``recipe`` comes in."""
    found = {_FULL: "params.yaml"}
    if (files("pipelines") / recipe / "tiny.yaml").is_file():
        found["tiny"] = "tiny.yaml"
    return found


def _write(source: Path, params: str, folder: Path) -> None:
    """The files of a project, from those of a recipe."""
    shutil.copy(source / params, folder / "params.yaml")
    recipe = load_recipe(folder / "params.yaml")
    named = named_files(recipe)
    brought = []
    for path in dict.fromkeys(path for paths in named.values() for path in paths):
        if (source / path).is_file():  # comes with the recipe
            shutil.copy(source / path, folder / path)
        else:
            brought.append(path)
    stages, _, _ = (source / "dvc.yaml").read_text(encoding="utf-8").partition("\nplots:\n")
    for stage, paths in named.items():
        stages = _depend(stages, stage, paths)
    write_text(folder / "dvc.yaml", f"{stages}\nplots:\n{''.join(_plots(recipe))}")
    write_text(folder / ".gitignore", "".join(f"/{name}/\n" for name in _IGNORED) + _kept(brought))


def _kept(brought: Sequence[str]) -> str:
    """Lines that keep the user's files out of git."""
    within = [path for path in brought if not path.startswith(("/", ".."))]
    return "".join(f"/{path}\n" for path in within)


def _depend(text: str, stage: str, paths: Sequence[str]) -> str:
    """``text`` of a dvc.yaml with ``paths`` among the deps of ``stage``."""
    if not paths:
        return text
    head = f"  {stage}:\n    cmd: reforge {stage}\n"
    pattern = re.compile(rf"{re.escape(head)}(?:    deps: \[(.*)\]\n)?")

    def with_paths(found: re.Match[str]) -> str:
        deps = [*([found[1]] if found[1] else []), *paths]
        return f"{head}    deps: [{', '.join(deps)}]\n"

    return pattern.sub(with_paths, text)


def _plots(recipe: Recipe) -> Iterator[str]:
    """The curves of every training, as ``dvc plots`` draws them."""
    for path, run in training_runs(recipe).items():
        name = path.rpartition(".")[2]
        if not run.steps:
            continue
        folder, title, unit = f"finetune/{name}", f"Task {name},", "example"
        if isinstance(run, PredictionConfig):
            title = "Pretraining" if name == "pretrain" else "Continued pretraining"
            folder, unit = (name if name == "pretrain" else folder), "token"
        elif isinstance(run, TaskSettings) and run.repeats > 1:
            folder = f"{folder}-{run.seed}"
        curves = f"artifacts/{folder}/curves/dvclive/plots/metrics"
        losses = "".join(f"        {curves}/{k}.tsv: {k}\n" for k in ("loss", "heldout_loss"))
        yield f"  - {title} loss (nats per {unit}):\n      x: step\n      y:\n{losses}"
        rate = f"        {curves}/learning_rate.tsv: learning_rate\n"
        yield f"  - {title} learning rate:\n      x: step\n      y:\n{rate}"


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ReforgeError(
            f"{command[0]} was not found, and a project needs it: install it"
        ) from error
    if done.returncode:
        raise ReforgeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
