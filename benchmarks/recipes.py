"""Every recipe that comes at tiny scale, from nothing to a report, each in a project of its own.

    python -m benchmarks.recipes [NAME …] [--start FOLDER] [--folder FOLDER]

`reforge init NAME DIR --scale tiny`, then `dvc repro`. domain_adaptation needs the laptop recipe's
exported model: --start names it, or the laptop recipe is run up to `convert` first. A project that
is in --folder already is gone on with. Recipes that are not named keep their rows of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import read_rows, write_table
from stages.init import recipes, scales

MODEL = Path("artifacts/convert/pretrain")


def run(project: Path, *command: str) -> None:
    """Run a command of this environment in ``project``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=project, env={**os.environ, "PATH": path}, check=True)


def start(name: str, scale: str, project: Path) -> None:
    """Make the project, unless it is there."""
    if not project.exists():
        run(project.parent, "reforge", "init", name, str(project), "--scale", scale)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def finished(name: str, project: Path) -> list[str]:
    """A row of what the stages recorded."""
    records = {
        path.name.partition(".")[0]: read(path)["record"]
        for path in sorted((project / "artifacts").glob("*.manifest.json"))
    }
    seconds = {stage: record["seconds"] for stage, record in records.items()}
    longest = max(seconds, key=lambda stage: seconds[stage])
    tokens = read(project / "metrics/tokenize.json")["train"]["sources"].values()
    audit = read(project / "artifacts/audit/audit.json")["replay"]
    return [
        name,
        f"{sum(source['tokens'] for source in tokens):,}",
        f"{read(project / 'metrics/pretrain.json')['parameters']:,}",
        scores(project),
        "the same bits" if audit and audit["same"] else "nothing to replay",
        f"{sum(seconds.values()) / 60:.1f} min, {seconds[longest] / 60:.1f} of them {longest}",
    ]


def scores(project: Path) -> str:
    """What the report begins with: held-out scores, then the tasks beside their baselines."""
    found = read(project / "artifacts/evaluate/scores.json")
    parts = []
    for source, models in found["perplexity"].items():
        trained = {m: of for m, of in models.items() if not m.endswith("gram")}
        shown = ", ".join(f"{m} {of['bits_per_byte']:.3f}" for m, of in trained.items())
        if source != "all":
            parts.append(f"{source}, bits per byte: {shown}")
    for model, of in found.get("masked", {}).items():
        parts.append(f"{model}: {of['accuracy']:.1%} of hidden tokens found")
    for path in sorted((project / "artifacts/finetune/results").glob("*.json")):
        results = read(path)
        metric = results["metric"]
        shown = ", ".join(
            f"{who.replace('_', ' ')} {of[metric]['value']:.3f}"
            for who, of in results["scores"].items()
            if metric in of
        )
        parts.append(f"{path.stem}, {metric}: {shown}")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser()
    tiny = [name for name in recipes() if "tiny" in scales(name)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(tiny)}; all")
    parser.add_argument("--start", type=Path, help="the laptop recipe's exported model")
    parser.add_argument("--folder", type=Path, help="where the projects are made")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="recipes-"))
    rows = {row[0]: row for row in read_rows("recipes")}
    for name in options.names or tiny:
        project = folder / name
        start(name, "tiny", project)
        if name == "domain_adaptation" and not (project / "model").exists():
            model = options.start
            if model is None:
                start("laptop", "full", folder / "laptop")
                run(folder / "laptop", "dvc", "repro", "convert")
                model = folder / "laptop" / MODEL
            shutil.copytree(model, project / "model")
        run(project, "dvc", "repro")
        rows[name] = finished(name, project)
    write_table(
        "recipes",
        "python -m benchmarks.recipes",
        ["recipe", "training tokens", "parameters", "scores", "audit's replay", "time of stages"],
        [rows[name] for name in tiny if name in rows],
        "Recipes at tiny scale, from `reforge init` to the report by `dvc repro`. They show that "
        "everything runs; models of this size say nothing of the recipes' worth. Times are of a "
        f"machine with {os.cpu_count()} cores that did other work at the same time.",
    )


if __name__ == "__main__":
    main()
