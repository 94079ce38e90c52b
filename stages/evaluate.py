"""``reforge evaluate``."""

from __future__ import annotations

import os

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run

_MODELS = {"pretrained": ("pretrain", "checkpoints"), "adapted": ("finetune", "continued")}


def evaluate(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Score the models with lm-eval on held-out documents, beside n-gram baselines.

    Two kinds of tasks are made from documents that no training saw: the perplexity of passages
    of each source, and multiple-choice questions that ask which term a definition defines. The
    exported Hugging Face folders are scored by lm-eval on the CPU, without a network; unigram,
    bigram and trigram models of the training tokens are scored on the same passages, in the same
    units. Writes `scores.json`, the tasks as JSON lines, and `generations.json`: a continuation
    of each prompt by each model.
    """
    # All are read when the libraries are imported or first used.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's own bars; ours go to terminals alone
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from megatron_core.evaluation.generation import write_generations
    from megatron_core.evaluation.scores import score_models
    from megatron_core.inference import StoredModel
    from megatron_core.parallel.layout import Layout
    from megatron_core.parallel.mesh import open_mesh

    with stage_run(
        "evaluate", params=params, overrides=overrides, dry_run=dry_run,
        inputs=["convert", "tokenizer", "tokenize", "decontaminate", "pretrain", "finetune"],
    ) as run:  # fmt: skip
        config = run.recipe.evaluate
        scores = score_models(
            {
                "pretrained": run.input("convert") / "pretrain",
                "adapted": run.input("convert") / "continued",
            },
            heldout=run.input("decontaminate") / "heldout",
            tokenizer=run.input("tokenizer"),
            tokenized=run.input("tokenize") / "train",
            output=run.output,
            config=config,
            context=config.context or run.recipe.pretrain.sequence_length,
            roots={"tokenizer": run.input_roots["tokenizer"]},
        )
        with open_mesh(Layout(), "cpu", config.threads) as mesh:
            found = {
                name: StoredModel.find(run.input(stage) / part)
                for name, (stage, part) in _MODELS.items()
            }
            write_generations(
                {name: (stored, stored.load(mesh)) for name, stored in found.items()},
                run.input("tokenizer"),
                run.output / "generations.json",
                config.generation,
            )
        run.metrics({key: scores[key] for key in ("perplexity", "multiple_choice")})
        run.summary(
            {
                "documents": sum(scores["documents"].values()),
                "questions": scores["questions"],
                **{
                    f"{source}, bits per byte": ", ".join(
                        f"{model} {values['bits_per_byte']:.3f}" for model, values in found.items()
                    )
                    for source, found in scores["perplexity"].items()
                },
                "accuracy": ", ".join(
                    f"{model} {values['accuracy']:.3f}"
                    for model, values in scores["multiple_choice"].items()
                )
                or "nothing was asked",
            }
        )
