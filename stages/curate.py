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
    * `language/other`, `language/uncertain`: not one of `language.languages`, or not surely so

    What follows is off unless the recipe names it (`gopher_quality: {}` takes the defaults):

    * `deidentify`: names, places, dates, numbers and whatever else identifies a person under
      HIPAA's Safe Harbor become placeholders such as `[**NAME**]`; samples of drops too
    * `gopher_repetition`, `gopher_quality`, `c4_quality`, `fineweb_quality`: datatrove's own
      filters, each with its arguments as keys; the reason is `filter/reason`

    Writes `artifacts/curate/documents/*.jsonl`, and `drops.json` with counts and samples. What was
    changed in a text, normalizing aside, is in its metadata under `edits`.
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
        tally = curate_documents(
            run.input("ingest") / "documents", run.output, run.recipe.curate, run.tasks
        )
        run.metrics(tally.metrics())
        run.summary(
            {"documents": tally.documents, "characters": tally.characters}
            | {f"dropped: {reason}": count for reason, count in sorted(tally.dropped.items())}
        )
