"""``reforge curate``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def curate(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Normalize the texts and drop the documents that fail a quality rule.

    Normalizing puts a text into Unicode's NFC, takes out control characters, and leaves single
    spaces and at most one blank line in a row. Then the rules are tried in this order; the first
    one that fails is the reason of the drop:

    * `too_short`, `too_long`: outside `min_characters` … `max_characters`
    * `few_letters`: a smaller share of letters and spaces than `min_alphabetic`
    * `repeated_lines`: more lines repeat an earlier one than `max_repeated_lines`

    Writes `artifacts/curate/documents/*.jsonl`, and `drops.json` with counts and samples.
    """
    from megatron_core.data.curation import curate_documents

    with stage_run(
        "curate",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["ingest"],
        resumable=True,
    ) as run:
        counts = curate_documents(
            run.input("ingest") / "documents", run.output, run.recipe.curate, run.tasks
        )
        run.metrics(
            {
                "documents": counts.documents,
                "characters": counts.characters,
                "dropped": sum(counts.dropped.values()),
                "reasons": counts.dropped,
            }
        )
        run.summary(
            {"documents": counts.documents, "characters": counts.characters}
            | {f"dropped: {reason}": count for reason, count in counts.dropped.items()}
        )
