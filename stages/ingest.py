"""``reforge ingest``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def ingest(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Read the sources into documents: JSON lines with stable ids, in a fixed number of shards.

    A source is a text collection that a Python package carries (`gensim_wikipedia`, `icd10cm`,
    `hpo`), files (`jsonl`, `parquet`, `text`, `warc` for web archives) or a dataset of the Hugging
    Face Hub (`hub`). The `path` of files is a file, a folder or a glob, read in sorted order;
    `.gz` and `.zst` are decompressed.

    A document's id is its source's name and its row, so it stays the same as long as the source
    does; `metadata.origin` names its file and line. Of a source with `share: 0.1` a tenth is
    kept, chosen by a hash of the id.

    Records and files that cannot be read are set aside in `broken.jsonl` with a reason; more than
    `max_broken`, or than a `max_broken_share` of all records, stop the stage. Empty texts are
    left out and counted.

    Writes `artifacts/ingest/documents/*.jsonl` and `artifacts/ingest/broken.jsonl`.
    """
    from dataclasses import asdict

    from megatron_core.data.ingestion import ingest_sources

    with stage_run("ingest", params=params, overrides=overrides, dry_run=dry_run) as run:
        counts = ingest_sources(run.recipe.ingest, run.output, run.tasks)
        totals = {
            name: sum(getattr(count, name) for count in counts.values())
            for name in ("documents", "characters", "broken", "empty", "left_out")
        }
        run.metrics(totals | {"sources": {name: asdict(count) for name, count in counts.items()}})
        run.summary(
            {name: f"{count.documents:,} documents" for name, count in counts.items()} | totals
        )
