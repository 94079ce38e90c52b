"""``reforge finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_core.files import write_json
from stages.options import DEFAULT_PARAMS, DryRun, LayoutOption, Overrides, Params
from stages.run import RUNS, StageRun, stage_run

if TYPE_CHECKING:
    from megatron_core.config import ClassificationConfig
    from megatron_core.data.chapters import LabelledTexts
    from megatron_core.parallel.mesh import Mesh
    from stages.training import Trained


def finetune(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    layout: LayoutOption = "auto",
) -> None:
    """Adapt the pretrained model to a domain, then fine-tune a classifier on the result.

    First continued pretraining on the domain's sources. Then, when the recipe has a
    `classification`, a classifier of ICD-10-CM codes into chapters: categories are whole on one
    side of the split, so siblings never leak, and the scores stand beside TF-IDF with logistic
    regression and the majority class.

    Both parts resume like `pretrain`, and take `--layout` as it does.
    """
    with stage_run(
        "finetune",
        params=params,
        overrides=overrides,
        dry_run=dry_run,
        inputs=["pretrain", "tokenize", "tokenizer", "decontaminate"],
        layout=layout,
    ) as run:
        from megatron_core.parallel.mesh import open_mesh

        config = run.recipe.finetune
        with open_mesh(run.layout, config.continued.device, config.continued.threads) as mesh:
            continued = _continue(run, mesh)
            run.content = {"continued": continued.checkpoint.root}
            metrics = {"continued": continued.metrics}
            rows = {"continued, held-out loss": continued.metrics.get("heldout_loss", "none")}
            if config.classification is not None:
                classifier, results = _classify(run, config.classification, continued.path, mesh)
                run.content["classification"] = classifier.checkpoint.root
                metrics["classification"] = results
                rows |= {
                    f"macro-F1, {name.replace('_', ' ')}": scores["macro_f1"]
                    for name, scores in results.items()
                    if isinstance(scores, dict) and "macro_f1" in scores
                }
        run.metrics(metrics)
        run.summary(rows)


def _continue(run: StageRun, mesh: Mesh) -> Trained:
    """Continued pretraining from the last checkpoint of ``pretrain``."""
    from megatron_core.checkpoint import find_checkpoints
    from megatron_core.trainer.assemble import continued_pretraining
    from stages.training import train

    config = run.recipe.finetune.continued
    start = find_checkpoints(run.input("pretrain") / "checkpoints")[-1]
    inputs = {"tokenize": run.input_roots["tokenize"]}
    trainer = continued_pretraining(config, start, run.input("tokenize"), inputs, RUNS, mesh)
    return train(trainer, run.output / "continued")


def _classify(
    run: StageRun, config: ClassificationConfig, start: Path, mesh: Mesh
) -> tuple[Trained, dict[str, Any]]:
    """The classifier on checkpoint ``start``, and its scores beside the baselines'."""
    from megatron_core.data.chapters import chapter_texts
    from megatron_core.data.tokenizer import Tokenizer
    from megatron_core.trainer.assemble import classification, load_classifier
    from megatron_core.trainer.classification import Examples, predict
    from stages.training import train

    texts, heldout = (
        chapter_texts(
            run.input("decontaminate") / split,
            config.source,
            config.codes_per_category,
            config.seed,
        )
        for split in ("train", "heldout")
    )
    classes = sorted({*texts.labels, *heldout.labels})
    tokenizer = Tokenizer.load(run.input("tokenizer"))
    examples, test = (
        Examples.of(
            tokenizer.encode_batch(part.texts),
            [classes.index(label) for label in part.labels],
            config.sequence_length,
        )
        for part in (texts, heldout)
    )
    inputs = {stage: run.input_roots[stage] for stage in ("tokenizer", "decontaminate")}
    trainer = classification(config, start, examples, test, classes, inputs, RUNS, mesh)
    trained = train(trainer, run.output / "classification")
    if not mesh.is_first:
        return trained, {}
    rows = predict(load_classifier(trained.path), test)
    results = _score([classes[row] for row in rows], texts, heldout)
    write_json(run.output / "classification" / "results.json", results)
    return trained, results


def _score(predicted: list[str], texts: LabelledTexts, heldout: LabelledTexts) -> dict[str, Any]:
    """Scores of the predictions, of TF-IDF with logistic regression, and of the majority."""
    from megatron_core.evaluation.classification import (
        classification_scores,
        majority_baseline,
        tfidf_baseline,
    )

    predictions = {
        "model": predicted,
        "tfidf_logistic_regression": tfidf_baseline(texts.texts, texts.labels, heldout.texts),
        "majority": majority_baseline(texts.labels, len(heldout.texts)),
    }
    return {
        "examples": {"train": len(texts.texts), "test": len(heldout.texts)},
        "classes": len({*texts.labels, *heldout.labels}),
        **{
            name: classification_scores(heldout.labels, guesses, heldout.groups)
            for name, guesses in predictions.items()
        },
    }
