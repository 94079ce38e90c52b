"""One run of one stage: recipe in, artifact, manifest and metrics out."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from megatron_core.config import Recipe, Section, load_recipe, training_runs
from megatron_core.data.tasks import Tasks
from megatron_core.errors import ConfigError, IntegrityError, ReforgeError
from megatron_core.files import resumable_folder, staged_folder, write_json
from megatron_core.identity import (
    Environment,
    Manifest,
    RunRecord,
    hash_code,
    hash_json,
    manifest_path,
    read_manifest,
    verify_files,
)
from megatron_core.parallel.launch import is_first_rank, joined_ranks, launch
from megatron_core.parallel.layout import Layout

ARTIFACTS = Path("artifacts")
METRICS = Path("metrics")
RUNS = Path("runs")
_DONE_TASKS = ".tasks"

console = Console(stderr=True)
logger = logging.getLogger(__name__)


class StageRun:
    """What a stage's body works with.

    ``output`` is a fresh folder that becomes ``artifacts/<stage>`` when the body succeeds; on
    any failure nothing of it remains and the previous artifact stands.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        output: Path,
        inputs: Mapping[str, Manifest],
        layout: Layout,
    ) -> None:
        self.name = name
        self.recipe = recipe
        self.output = output
        self.layout = layout
        self.content: dict[str, str] | None = None
        self._inputs = inputs
        self._metrics: dict[str, Any] | None = None
        self._summary: dict[str, Any] = {}

    def input(self, stage: str) -> Path:
        """The artifact of an earlier stage."""
        return ARTIFACTS / stage

    @property
    def input_roots(self) -> dict[str, str]:
        """Root of each input by stage."""
        return {stage: manifest.root for stage, manifest in self._inputs.items()}

    @property
    def tasks(self) -> Tasks:
        """What does the work of a resumable stage; what is done survives a kill."""
        return Tasks(self.output / _DONE_TASKS, self.recipe.execution)

    def metrics(self, values: Mapping[str, Any]) -> None:
        """What ``dvc metrics`` shows: nested mappings of numbers."""
        self._metrics = dict(values)

    def summary(self, rows: Mapping[str, Any]) -> None:
        """Rows of the table printed at the end."""
        self._summary = dict(rows)

    def write_metrics(self) -> None:
        """Write ``metrics/<stage>.json`` if the body gave any."""
        if self._metrics is not None:
            write_json(METRICS / f"{self.name}.json", self._metrics)

    def print_summary(self, manifest: Manifest) -> None:
        """Print what was done, how long it took and the root of the result."""
        table = Table(title=self.name, title_justify="left", show_header=False)
        for key, value in self._summary.items():
            table.add_row(key, _shown(value))
        table.add_row("time", f"{manifest.record.seconds:.1f} s")
        table.add_row("root", manifest.root[:16])
        console.print(table)


def _forget_tasks(output: Path) -> None:
    """Delete what the tasks remember, and what they left for each other beside it."""
    done, gone = output / _DONE_TASKS, output.with_name(f"{output.stem}.tasks.partial")
    if done.exists():
        done.rename(gone)  # at once: a kill amid the deletion must leave all of it or nothing
        shutil.rmtree(gone, ignore_errors=True)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


@contextmanager
def stage_run(
    name: str,
    *,
    params: Path,
    overrides: Sequence[str] | None,
    dry_run: bool,
    inputs: Sequence[str] = (),
    layout: str | Layout | None = None,
    trains: str | None = None,
    keep: bool = True,
    resumable: bool = False,
) -> Iterator[StageRun]:
    """Run the body of stage ``name`` on the artifacts of ``inputs``.

    A training stage gives its ``--layout``, and ``trains`` if the trainings are those of another
    section. When the layout is of several ranks the command first becomes that many processes,
    which all run the body; only the first one's ``output`` is kept. With ``keep`` false none is,
    and the artifact stays what it was. A ``resumable`` stage finds in ``output`` what the same
    recipe on the same inputs left there when it was killed, and which of its tasks are done.

    Raises:
        ReforgeError: the recipe is wrong, an input is missing or altered, or the disk refuses.
        typer.Exit: after printing the plan, when ``dry_run``; after the ranks have done the work.
    """
    recipe = load_recipe(params, overrides or ())
    section: Section = getattr(recipe, name)
    if isinstance(layout, str):
        chosen = _choose_layout(layout, trains or name, recipe)
    else:
        chosen = layout or Layout()
    if dry_run:
        _print_plan(name, section, inputs, chosen)
        raise typer.Exit
    opened = {stage: open_input(name, stage) for stage in inputs}
    if chosen.ranks > 1 and joined_ranks() is None:
        raise typer.Exit(
            launch(chosen.ranks, "stages.app", sys.argv[1:], restarts=_allowed_restarts())
        )
    started, clock = datetime.now(UTC), time.monotonic()
    artifact = ARTIFACTS / name
    if not keep or not is_first_rank():
        with tempfile.TemporaryDirectory() as unused:
            yield StageRun(name, recipe, Path(unused), opened, chosen)
        return
    with _fresh_folder(artifact, section, opened, resumable=resumable) as output:
        run = StageRun(name, recipe, output, opened, chosen)
        yield run
        _forget_tasks(output)
        manifest = Manifest.of(
            output,
            stage=name,
            inputs=run.input_roots,
            recipe=section.identity(),
            content=run.content,
            record=RunRecord(
                command=shlex.join(["reforge", *sys.argv[1:]]),
                started=started.isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - clock, 3),
                layout=chosen.degrees(),
                environment=Environment.current(),
            ),
        )
        # From here to the new manifest the artifact has none, so it counts as incomplete.
        manifest_path(artifact).unlink(missing_ok=True)
    run.write_metrics()
    manifest.write(manifest_path(artifact))
    run.print_summary(manifest)


def _fresh_folder(
    artifact: Path, section: Section, inputs: Mapping[str, Manifest], *, resumable: bool
) -> AbstractContextManager[Path]:
    """Where the new artifact is made; a resumable one by recipe, inputs and code."""
    if not resumable:
        return staged_folder(artifact)
    roots = {stage: manifest.root for stage, manifest in inputs.items()}
    made_from = [artifact.name, section.identity(), roots, hash_code()]
    return resumable_folder(artifact, hash_json(made_from)[:16])


def _choose_layout(text: str, name: str, recipe: Recipe) -> Layout:
    """Resolve ``--layout`` for the training runs of stage ``name``."""
    runs = {
        path: training
        for path, training in training_runs(recipe).items()
        if path.partition(".")[0] == name
    }
    if not runs:  # nothing is fine-tuned
        return Layout()
    threads = max(training.threads for training in runs.values())
    on_gpus = any(training.device == "cuda" for training in runs.values())
    if on_gpus:
        import torch

        room = torch.cuda.device_count()
    else:
        room = _processors() // threads
    grids = {path: training.grid for path, training in runs.items()}
    chosen = Layout.choose(text, grids, recipe.pretrain.model, room=room, joined=joined_ranks())
    if text == "auto" and joined_ranks() is None:
        logger.info(
            "layout %s: as far as the grid goes and this machine has room (%d ranks)",
            chosen, max(1, room),
        )  # fmt: skip
    if not on_gpus and joined_ranks() is None and chosen.ranks * threads < _processors():
        widest = Layout.choose("auto", grids, recipe.pretrain.model, room=room, joined=None)
        _say_idle(chosen, widest, threads)
    return chosen


def _say_idle(chosen: Layout, widest: Layout, threads: int) -> None:
    """That this machine has more cores than are used, and what would use them."""
    more = (
        f"--layout {widest} takes more of them and changes no bit"
        if widest.ranks > chosen.ranks
        else "a pipeline takes more of them and changes no bit, a larger `grid` or more `threads` "
        "do as another recipe"
    )
    logger.info(
        "%d cores, %d thread%s in each of %d rank%s: %s",
        _processors(), threads, "s" * (threads > 1), chosen.ranks, "s" * (chosen.ranks > 1), more,
    )  # fmt: skip


def _allowed_restarts() -> int:
    """``REFORGE_RESTARTS``: how often ranks that were killed or that hang are started again."""
    text = os.environ.get("REFORGE_RESTARTS", "0")
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"REFORGE_RESTARTS={text}: must be a whole number from 0 up")
    return int(text)


def _processors() -> int:
    """Those this process may use; all of them where the system cannot say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_input(stage: str, needed: str) -> Manifest:
    """The manifest of the artifact that ``stage`` reads.

    Raises:
        ReforgeError: the artifact is missing, or a file of it is missing or of another size.
    """
    artifact = ARTIFACTS / needed
    if not artifact.is_dir():
        raise ReforgeError(
            f"{stage} needs {artifact}, which does not exist: run `reforge {needed}` first, "
            "or `dvc repro` for the whole pipeline"
        )
    manifest = read_manifest(manifest_path(artifact))
    # Full hashes are the audit's work: reading terabytes before every stage would be no help.
    if problems := verify_files(artifact, manifest, hashes=False):
        raise IntegrityError(
            f"{stage} needs {artifact}, which is not as its manifest says:\n  "
            + "\n  ".join(problems[:10])
            + f"\nrun `reforge {needed}` again"
        )
    return manifest


def _print_plan(name: str, section: Section, inputs: Sequence[str], layout: Layout) -> None:
    print(yaml.safe_dump({name: section.model_dump(mode="json")}, sort_keys=False), end="")
    for needed in inputs:
        state = "there" if manifest_path(ARTIFACTS / needed).exists() else "not made yet"
        print(f"# reads {ARTIFACTS / needed} ({state})")
    print(f"# runs on {layout.ranks} rank{'s' if layout.ranks > 1 else ''}")
    print(f"# writes {ARTIFACTS / name}, {manifest_path(ARTIFACTS / name)}")
