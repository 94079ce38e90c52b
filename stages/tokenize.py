"""``reforge tokenize``."""

from __future__ import annotations

from pathlib import Path

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run
from stages.tokenizer import check_vocabulary


def tokenize(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Write the documents as Megatron indexed datasets.

    Each split and source becomes `artifacts/tokenize/<split>/<source>_text_document.bin` and
    `.idx`, byte for byte as Megatron-LM would write them: uint16 tokens below 65,500 entries,
    else int32. Documents come in the order of their rows, and each ends with the tokenizer's
    end-of-document token unless `append_end_of_document` is off; a `.rows.npy` beside each dataset
    has the row of every document in its source. A document without tokens is dropped and counted.
    A special token that is spelled out in a text stays text unless `parse_special_tokens`.

    `encoder` says what encodes: `reference` is the tokenizer's own library, `gigatoken` is many
    times faster for byte pair encoding, `auto` takes it where it is installed and exact. The
    reference encodes a sample of every shard too, and the stage stops at the first difference.

    `canaries` plants made-up secrets among the training documents of a source, for `evaluate` to
    measure whether a model remembers them; they and their controls are in `canaries.json`. A
    canary's row is below 0.

    `vocabulary.json` says which tokens are special and which begin a word, for masked training.

    The shards are tasks: neither their number nor that of the workers changes a byte.
    """
    from megatron_core.data.tokenization import tokenize_documents
    from megatron_core.data.tokenizer import Tokenizer, verify_unchanged
    from megatron_core.data.vocabulary import Vocabulary

    with stage_run(
        "tokenize",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["decontaminate", "tokenizer"],
        resumable=True,
    ) as run:
        check_vocabulary(run.recipe, Tokenizer.load(run.input("tokenizer")).vocabulary_size)
        config = run.recipe.tokenizer
        if config.kind == "existing":
            verify_unchanged(Path(config.path), run.input("tokenizer"), config.end_of_document)
        counts = tokenize_documents(
            run.input("decontaminate"),
            run.input("tokenizer"),
            run.output,
            run.recipe.tokenize,
            run.tasks,
        )
        Vocabulary.of_tokenizer(run.input("tokenizer")).write(run.output)
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
