"""The options that every stage shares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Params = Annotated[
    Path, typer.Option("--params", metavar="FILE", help="The recipe; see `reforge schema`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one value of the recipe; repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved section and the plan; do nothing.")
]
LayoutOption = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="data=N,tensor=N,…",
        envvar="REFORGE_LAYOUT",
        help="Ranks of each dimension: data, tensor, context, pipeline, expert; with "
        "`stages=N` (interleaved) or `schedule=zero_bubble` the order in the pipeline. "
        "`auto` takes as many as fit here. It changes no bit of the result.",
    ),
]
ProfileOption = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Trace three steps after the second, and print where their time went. Every rank "
        "leaves `profile/rank-N.json.gz` in the run's folder, for https://ui.perfetto.dev. "
        "It changes no bit of the result.",
    ),
]

DEFAULT_PARAMS = Path("params.yaml")
