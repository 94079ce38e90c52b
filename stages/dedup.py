"""``reforge dedup``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def dedup(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Drop documents that repeat another: exact copies first, then near-duplicates.

    Exact copies have the same words; case, spacing and punctuation do not count, numbers and
    accents do. Near-duplicates are found with MinHash over word n-grams: documents that agree in
    all hashes of one bucket are candidates, and those whose true Jaccard similarity is
    `min_jaccard` or more belong together. More buckets find more; more hashes per bucket find
    fewer, but more alike. Of a bucket that very many share, each document is compared with the
    first `max_compared`.

    The longest document of a group is kept, or with `survivor: score` the one with the highest
    number under the key `score` of its metadata. A group may be a chain: its ends can be less
    alike than its neighbours. The result depends on neither the shards nor the workers.

    Writes `artifacts/dedup/documents/*.jsonl`; `duplicates.jsonl` with what was removed, what was
    kept in its place and how similar they are; and `clusters.jsonl` with the largest groups, to
    look at, and how many there are of each size below.
    """
    from megatron_core.data.dedup import remove_duplicates

    with stage_run(
        "dedup",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["curate"],
        resumable=True,
    ) as run:
        counts = remove_duplicates(
            run.input("curate") / "documents", run.output, run.recipe.dedup, run.tasks
        )
        run.metrics(
            {
                "documents": counts.documents,
                "characters": counts.characters,
                "exact": counts.exact,
                "near": counts.near,
                "clusters": counts.clusters,
                "removed": counts.by_source,
            }
        )
        run.summary(
            {
                "documents": counts.documents,
                "characters": counts.characters,
                "exact duplicates": counts.exact,
                "near-duplicates": counts.near,
                "near clusters": counts.clusters,
            }
        )
