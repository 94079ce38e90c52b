"""``reforge tokenizer``."""

from __future__ import annotations

from megatron_core.config import Recipe
from megatron_core.errors import ConfigError
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def tokenizer(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Train a tokenizer on a sample of the training documents, or take one that exists.

    The sample is `sample_megabytes` of documents, chosen by a hash of their ids. `kind` says what
    is made of it: `byte_bpe`, as GPT-2's: every text round-trips exactly, and entry 0 is
    `<|endoftext|>`, which ends documents; `sentencepiece_bpe` and `sentencepiece_unigram`, as
    Llama's and T5's, where `</s>` ends documents; `wordpiece`, cased, as BERT's and GatorTron's,
    with `[PAD] [UNK] [CLS] [SEP] [MASK]`, where `[SEP]` ends documents. `existing` copies what
    `path` names, a Hugging Face folder or a SentencePiece file; code and pickles in it are not
    even copied. A special token that is spelled out inside a text stays text.

    The result is a Hugging Face folder: `AutoTokenizer.from_pretrained("artifacts/tokenizer")`
    opens it. `tokenizer.model` beside it is SentencePiece's own. `report.json` has round trips,
    special tokens, tokens per word, bytes per token and the share of unknown tokens per source.

    The text must suffice for exactly `vocabulary` entries; if it does not, the error says how
    many it yields.
    """
    from megatron_core.data.tokenizer import make_tokenizer

    with stage_run(
        "tokenizer",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["decontaminate"],
    ) as run:
        report = make_tokenizer(
            run.input("decontaminate") / "train", run.output, run.recipe.tokenizer
        )
        check_vocabulary(run.recipe, report["vocabulary"])
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


def check_vocabulary(recipe: Recipe, entries: int) -> None:
    """Refuse a tokenizer of more entries than the model has.

    Raises:
        ConfigError: the model is too small.
    """
    model = recipe.pretrain.model.vocabulary
    if entries > model:
        raise ConfigError(
            f"pretrain.model.vocabulary = {model}: must hold the tokenizer's {entries} entries"
        )
