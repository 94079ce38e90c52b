"""``reforge report``."""

from __future__ import annotations

from megatron_core.config import STAGES
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import ARTIFACTS, METRICS, stage_run


def report(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Write one HTML page about the whole pipeline: `artifacts/report/report.html`.

    It shows what went through each stage, what was removed and why, the curves of the training,
    the scores beside their baselines, samples of both models, and the roots with the verdict of
    the audit. The page is a single file that loads nothing: send it to anyone.

    The page prints times, so its bytes differ from run to run; the root of this stage is over
    the results alone.
    """
    from megatron_core.reporting import Project, read_circumstances, read_results, write_page

    with stage_run(
        "report", params=params, overrides=overrides, dry_run=dry_run, inputs=STAGES[:-1]
    ) as run:
        project = Project(ARTIFACTS, METRICS)
        results = read_results(project, run.recipe.report.title)
        path = run.output / "report.html"
        write_page(path, results, read_circumstances(project))
        run.content = {"page": results.identity()}
        run.summary(
            {
                "page": ARTIFACTS / "report" / path.name,
                "sections": ", ".join(heading for _, heading in results.sections),
                "size": f"{path.stat().st_size / 1e3:.0f} kB",
            }
        )
