"""``reforge tokenize``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def tokenize(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Write the documents as Megatron indexed datasets.

    Each split and source becomes `artifacts/tokenize/<split>/<source>_text_document.bin` and
    `.idx`, byte for byte as Megatron-LM would write them: uint16 tokens below 65,500 entries,
    else int32. Documents come in the order of their rows, and each ends with `<|endoftext|>`
    unless `append_end_of_document` is off. A document without tokens is dropped and counted.

    The shards are tasks: neither their number nor that of the workers changes a byte.
    """
    from megatron_core.data.tokenization import tokenize_documents

    with stage_run(
        "tokenize",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["decontaminate", "tokenizer"],
        resumable=True,
    ) as run:
        counts = tokenize_documents(
            run.input("decontaminate"),
            run.input("tokenizer"),
            run.output,
            run.recipe.tokenize,
            run.tasks,
        )
        totals = {
            split: {
                name: sum(source[name] for source in sources.values())
                for name in ("documents", "dropped_empty", "tokens", "bytes")
            }
            for split, sources in counts.items()
        }
        run.metrics({split: {"total": totals[split], "sources": counts[split]} for split in counts})
        run.summary(
            {
                f"{split}, {name}": f"{count['tokens']:,} tokens, {count['documents']:,} documents"
                for split, sources in counts.items()
                for name, count in (*sources.items(), ("total", totals[split]))
            }
            | {"dropped as empty": sum(total["dropped_empty"] for total in totals.values())}
        )
