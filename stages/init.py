"""``reforge init``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from megatron_core.errors import ConfigError, ReforgeError
from megatron_core.files import staged_folder, write_text
from stages.run import console

_IGNORED = ("/artifacts/", "/metrics/", "/runs/", "/dvc_plots/", "/.venv/")

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
) -> None:
    """Start a project: a folder with `params.yaml` and `dvc.yaml`, ready for `dvc repro`.

    The folder is a git repository with a first commit, and DVC is set up in it.
    """
    names = recipes()
    if recipe not in names:
        raise ConfigError(f"there is no recipe {recipe}: choose one of {', '.join(names)}")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: name a new folder")
    with staged_folder(folder) as staging:
        with as_file(files("pipelines") / recipe) as source:
            for name in ("params.yaml", "dvc.yaml"):
                shutil.copy(source / name, staging / name)
        write_text(staging / ".gitignore", "".join(f"{line}\n" for line in _IGNORED))
        for command in _COMMANDS:
            _run(command, staging)
    console.print(f"{folder} is ready: cd {folder}, look at params.yaml, then run `dvc repro`")


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ReforgeError(
            f"{command[0]} was not found, and a project needs it: install it"
        ) from error
    if done.returncode:
        raise ReforgeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")


def recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        entry.name for entry in files("pipelines").iterdir() if (entry / "params.yaml").is_file()
    )
