"""``reforge evaluate``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from megatron_core.config import load_recipe
from stages.generate import inference_layout
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import StageRun, stage_run

_MODELS = {"pretrained": ("pretrain", "pretrain"), "adapted": ("finetune", "continued")}


def evaluate(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="data=N,tensor=N",
            help="Ranks that score our models: `data` share the requests, `tensor` the model. It "
            "changes no bit.",
        ),
    ] = "data=1",
) -> None:
    """Score the models with lm-eval on held-out documents, beside n-gram baselines.

    Two kinds of tasks are made from documents that no training saw: the perplexity of passages
    of each source, and multiple-choice questions that ask which term a definition defines.
    `tasks` names further ones of lm-eval, or of a folder of its YAML (`include`). Checkpoints
    are scored as they are, on any layout, and their exports through transformers (`scorers`);
    unigram, bigram and trigram models of the training tokens are scored on the same passages, in
    the same units. Every request is computed alone, so no score depends on a batch or an order.

    Writes `scores.json`, with 95 % intervals and the roots of models, tokenizer and tasks, the
    tasks as JSON lines, and `generations.json`: a continuation of each prompt by each model.
    """
    chosen = inference_layout(layout)
    # All are read when the libraries are imported.
    if not load_recipe(params, overrides or ()).evaluate.hub:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's own bars; ours go to terminals alone
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with stage_run(
        "evaluate", params=params, overrides=overrides, dry_run=dry_run,
        inputs=["convert", "tokenizer", "tokenize", "decontaminate", "pretrain", "finetune"],
        layout=chosen,
    ) as run:  # fmt: skip
        config = run.recipe.evaluate
        from megatron_core.evaluation.models import Evaluation, Inputs, Subject
        from megatron_core.inference import StoredModel
        from megatron_core.parallel.mesh import open_mesh

        subjects = {
            name: Subject(
                StoredModel.find(run.input(stage) / ("continued" if part == "continued" else "")),
                run.input("convert") / part,
            )
            for name, (stage, part) in _MODELS.items()
        }
        inputs = Inputs(
            heldout=run.input("decontaminate") / "heldout",
            tokenizer=run.input("tokenizer"),
            tokenized=run.input("tokenize") / "train",
            roots={"tokenizer": run.input_roots["tokenizer"]},
        )
        context = config.context or run.recipe.pretrain.sequence_length
        with open_mesh(run.layout, config.device, config.threads) as mesh:
            scores = Evaluation(inputs, config, mesh, context=context).run(subjects, run.output)
        if mesh.is_first:
            _report(run, scores)


def _report(run: StageRun, scores: dict[str, Any]) -> None:
    named = {
        task: {model: _numbers(metrics) for model, metrics in of["models"].items()}
        for task, of in scores["tasks"].items()
    }
    run.metrics(
        {
            "perplexity": scores["perplexity"],
            "multiple_choice": scores["multiple_choice"],
            **({"tasks": named} if named else {}),
        }
    )
    rows: dict[str, Any] = {
        "documents": sum(scores["documents"].values()),
        "questions": scores["questions"],
    }
    for source, found in scores["perplexity"].items():
        rows[f"{source}, bits per byte"] = _line(found, "bits_per_byte")
    rows["accuracy"] = _line(scores["multiple_choice"], "accuracy") or "nothing was asked"
    for task, of in named.items():
        metric = next(iter(next(iter(of.values()))))
        rows[f"{task}, {metric}"] = _line(
            {model: values[metric] for model, values in of.items()}, "value"
        )
    for model, of in scores["agreement"].items():
        rows[f"{model}, native and exported"] = (
            "the same to the last digit"
            if of["identical"]
            else f"log-likelihoods within {of['log_likelihood']:.1e} of each other"
        )
    run.summary(rows)


def _numbers(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    kept = ("value", "low", "high")
    return {metric: {k: of[k] for k in kept if k in of} for metric, of in metrics.items()}


def _line(found: dict[str, dict[str, float]], key: str) -> str:
    """Each model's score, with its 95 % interval."""
    parts = []
    for model, of in found.items():
        prefix = "" if key == "value" else f"{key}_"
        low, high = of.get(f"{prefix}low"), of.get(f"{prefix}high")
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        parts.append(f"{model} {of[key]:.3f}{interval}")
    return "\n".join(parts)
