"""``reforge tokenizer``."""

from __future__ import annotations

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def tokenizer(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Train a tokenizer on a sample of the training documents.

    The sample is `sample_megabytes` of documents, chosen by a hash of their ids. The tokenizer
    is byte-level BPE: every text round-trips exactly. Entry 0 is `<|endoftext|>`, which ends
    documents; spelled out inside a text it stays text.

    The result is a Hugging Face folder: `AutoTokenizer.from_pretrained("artifacts/tokenizer")`
    opens it. `report.json` beside it has tokens per word and bytes per token of each source.

    The text must suffice for exactly `vocabulary` entries; if it does not, the error says how
    many it yields.
    """
    from megatron_core.data.tokenizer import train_tokenizer

    with stage_run(
        "tokenizer",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["decontaminate"],
    ) as run:
        report = train_tokenizer(
            run.input("decontaminate") / "train", run.output, run.recipe.tokenizer
        )
        sample = report["sample"]
        run.metrics(
            {"vocabulary": report["vocabulary"], "sample": sample, "sources": report["sources"]}
        )
        run.summary(
            {
                "vocabulary": report["vocabulary"],
                "sample": f"{sample['documents']:,} documents, {sample['bytes'] / 1e6:.1f} MB",
                "exact round trips": f"{sample['exact_round_trips']:,} of {sample['documents']:,}",
                **{
                    f"bytes per token, {name}": f"{source['bytes_per_token']:.2f} "
                    f"({source['tokens_per_word']:.2f} tokens per word)"
                    for name, source in report["sources"].items()
                },
            }
        )
