"""``reforge evaluate``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megatron_core.config import load_recipe
from megatron_core.errors import ConfigError
from megatron_core.files import write_json
from stages.generate import inference_layout
from stages.models import language_models
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import ARTIFACTS, RUNS, StageRun, stage_run

if TYPE_CHECKING:
    from megatron_core.trainer.masked import MaskedScore


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
    A model with a soft prompt has no export and is scored as it is. Of an encoder, which predicts
    no next token, it is scored how well it finds what is hidden in the held-out sequences that
    training validates on.

    `memorization` asks besides what decoders remember of the training text: the exposure of the
    canaries that `tokenize` planted, and the longest runs of tokens that their continuations share
    with it.

    Writes `scores.json`, with 95 % intervals and the roots of models, tokenizer and tasks, the
    tasks as JSON lines, and `generations.json`: a continuation of each prompt by each model.
    """
    chosen = inference_layout(layout)
    # All are read when the libraries are imported.
    recipe = load_recipe(params, overrides or ())
    if recipe.pretrain.model.kind == "encoder" and chosen.ranks > 1:
        raise ConfigError(f"--layout {layout}: an encoder is scored on one rank")
    if not recipe.evaluate.hub:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's own bars; ours go to terminals alone
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with stage_run(
        "evaluate", params=params, overrides=overrides, dry_run=dry_run,
        inputs=["convert", "tokenizer", "tokenize", "decontaminate", "pretrain", "finetune"],
        layout=chosen,
    ) as run:  # fmt: skip
        if recipe.pretrain.model.kind == "encoder":
            _score_encoders(run)
            return
        config = run.recipe.evaluate
        from megatron_core.evaluation.models import Evaluation, Inputs, Subject
        from megatron_core.inference import StoredModel
        from megatron_core.parallel.mesh import open_mesh

        subjects = {
            model.name: Subject(
                StoredModel.find(model.below(ARTIFACTS)),
                None if model.prompted else run.input("convert") / model.folder,
            )
            for model in language_models(run.recipe.finetune)
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


def _score_encoders(run: StageRun) -> None:
    """What encoders find of the hidden tokens, on one rank, in the place of lm-eval's scores."""
    import torch

    from megatron_core.exchange import ModelFolder
    from megatron_core.model import LanguageModel, load_parameters
    from megatron_core.parallel.layout import Layout
    from megatron_core.parallel.mesh import open_mesh
    from megatron_core.trainer.assemble import prediction_objective
    from megatron_core.trainer.language import MaskedObjective
    from megatron_core.trainer.masked import masked_scores

    config, found, roots = run.recipe.evaluate, {}, {}
    with open_mesh(Layout(), config.device, config.threads) as mesh:
        for trained in language_models(run.recipe.finetune):
            stored = ModelFolder.open(trained.below(ARTIFACTS))
            objective = prediction_objective(
                run.recipe.pretrain, stored.config, run.input("tokenize"), RUNS
            )
            if not isinstance(objective, MaskedObjective):
                raise TypeError(f"{stored.path} is no encoder")
            model = LanguageModel(stored.config).to(torch.float32)
            load_parameters(model, stored.weights)
            scores = masked_scores(model.to(mesh.device), objective)
            found[trained.name], roots[trained.name] = _masked(scores, config.seed), stored.root()
    write_json(
        run.output / "scores.json",
        {
            "agreement": {}, "documents": {}, "lm_eval": {}, "masked": found,
            "multiple_choice": {}, "perplexity": {}, "questions": 0,
            "roots": {"tokenizer": run.input_roots["tokenizer"], **roots}, "scorers": [],
            "tasks": {},
        },
    )  # fmt: skip
    run.metrics({"masked": found})
    rows: dict[str, Any] = {"tasks": "an encoder has no scores here but these; see finetune"}
    rows["loss of a masked token"] = _line(found, "loss")
    rows["masked tokens found"] = _line(found, "accuracy")
    if all("pair_accuracy" in of for of in found.values()):
        rows["kinds of pairs told"] = _line(found, "pair_accuracy")
    run.summary(rows)


def _masked(scores: Sequence[MaskedScore], seed: int) -> dict[str, float]:
    """Mean loss in nats and share of the hidden tokens that are found, with intervals over
    sequences; the share of pairs whose kind is told."""
    from megatron_core.evaluation.intervals import exact, ratio_bootstrap

    found: dict[str, float] = {}
    asked = [one for one in scores if one.hidden]
    hidden = [one.hidden for one in asked]
    for name, values in (
        ("loss", [one.loss for one in asked]), ("accuracy", [float(one.right) for one in asked]),
    ):  # fmt: skip
        interval = ratio_bootstrap(values, hidden, seed, float)
        found |= {
            name: sum(values) / sum(hidden), f"{name}_low": interval.low,
            f"{name}_high": interval.high,
        }  # fmt: skip
    found |= {"tokens": sum(hidden), "sequences": len(asked)}
    pairs = [one.pair for one in scores if one.pair is not None]
    if pairs:
        interval = exact(sum(pairs), len(pairs))
        found |= {
            "pair_accuracy": sum(pairs) / len(pairs), "pair_accuracy_low": interval.low,
            "pair_accuracy_high": interval.high,
        }  # fmt: skip
    return found


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
            **_memorization_numbers(scores),
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
    rows |= _memorization_rows(scores)
    for model, of in scores["agreement"].items():
        rows[f"{model}, native and exported"] = (
            "the same to the last digit"
            if of["identical"]
            else f"log-likelihoods within {of['log_likelihood']:.1e} of each other"
        )
    run.summary(rows)


def _memorization_numbers(scores: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `memorization` without its texts, if it was asked for."""
    found = {
        model: {
            "exposure": {str(g["copies"]): g["exposure"] for g in _groups(of)},
            "longest": {name: overlap["longest"] for name, overlap in of["overlaps"].items()},
            "verbatim_share": of["overlaps"]["train_likeliest"]["verbatim_share"],
        }
        for model, of in scores.get("memorization", {}).items()
    }
    return {"memorization": found} if found else {}


def _memorization_rows(scores: dict[str, Any]) -> dict[str, str]:
    rows: dict[str, str] = {}
    for model, of in scores.get("memorization", {}).items():
        groups = [f"{g['copies']} copies {g['exposure']:.1f}" for g in _groups(of)]
        if groups:
            chance = of["canaries"]["chance"]
            rows[f"{model}, exposure in bits"] = ", ".join([*groups, f"chance {chance:.1f}"])
        begun = of["overlaps"]["train_likeliest"]
        rows[f"{model}, training text repeated"] = (
            f"{begun['verbatim']} of {begun['texts']} continuations; "
            f"longest run {begun['longest']} tokens"
        )
    return rows


def _groups(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [] if of["canaries"] is None else list(of["canaries"]["groups"])


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
