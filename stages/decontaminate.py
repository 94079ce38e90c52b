"""``reforge decontaminate``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def decontaminate(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Hold out documents for evaluation, then drop from training what overlaps with them.

    A document is held out by a hash of its id, so a growing corpus never moves a document from
    one split to the other; or by a hash of the value that its metadata has under `heldout_by`, so
    that all documents of a patient are on one side.

    A training document is removed when more than `max_overlap` of its word n-grams stand in the
    held-out texts, or in one of the sets named under `against`; or when it has more than
    `max_covered` of the n-grams of one of their texts. A text shorter than an n-gram is compared
    whole. An n-gram that more than 64 texts of a set have is a sign of none of them.

    Writes `artifacts/decontaminate/train/*.jsonl`, `heldout/*.jsonl`, and `removed.jsonl` with the
    set, the text of it, both shares and an example of each document removed.
    """
    from megatron_core.data.decontamination import decontaminate_documents

    with stage_run(
        "decontaminate",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["dedup"],
        resumable=True,
    ) as run:
        counts = decontaminate_documents(
            run.input("dedup") / "documents", run.output, run.recipe.decontaminate, run.tasks
        )
        run.metrics(
            {
                "train": {"documents": counts.train, "characters": counts.train_characters},
                "heldout": {"documents": counts.heldout, "characters": counts.heldout_characters},
                "removed": counts.removed,
            }
        )
        run.summary(
            {"training documents": counts.train, "held-out documents": counts.heldout}
            | {f"removed, overlap with {name}": count for name, count in counts.removed.items()}
        )
