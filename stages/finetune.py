"""``reforge finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_core.files import write_json
from stages.options import DEFAULT_PARAMS, DryRun, LayoutOption, Overrides, Params
from stages.run import RUNS, StageRun, stage_run

if TYPE_CHECKING:
    from megatron_core.checkpoint import Checkpoint
    from megatron_core.config import ClassificationConfig


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
        continued, adapted, path = _continue(run)
        metrics = {"continued": continued}
        run.content = {"continued": adapted.root}
        rows = {"continued, held-out loss": continued.get("heldout_loss", "none")}
        if (config := run.recipe.finetune.classification) is not None:
            results, classifier = _classify(run, config, path)
            metrics["classification"] = results
            run.content["classification"] = classifier.root
            for name in ("model", "tfidf_logistic_regression", "majority"):
                rows[f"macro-F1, {name.replace('_', ' ')}"] = results[name]["macro_f1"]
        run.metrics(metrics)
        run.summary(rows)


def _continue(run: StageRun) -> tuple[dict[str, Any], Checkpoint, Path]:
    """Continued pretraining; its metrics, final checkpoint and where that lies."""
    from megatron_core.checkpoint import find_checkpoints
    from megatron_core.parallel.mesh import open_mesh
    from megatron_core.trainer.assemble import continued_pretraining
    from stages.training import publish, training_metrics

    config = run.recipe.finetune.continued
    start = find_checkpoints(run.input("pretrain") / "checkpoints")[-1]
    inputs = {"tokenize": run.input_roots["tokenize"]}
    with open_mesh(run.layout, config.device, config.threads) as mesh:
        trainer = continued_pretraining(config, start, run.input("tokenize"), inputs, RUNS, mesh)
        path, final = trainer.train()
    publish(trainer, run.output / "continued")
    return training_metrics(trainer, final), final, path


def _classify(
    run: StageRun, config: ClassificationConfig, start: Path
) -> tuple[dict[str, Any], Checkpoint]:
    """The classifier and its baselines; writes ``classification/results.json``."""
    from megatron_core.data.chapters import chapter_texts
    from megatron_core.data.tokenizer import Tokenizer
    from megatron_core.evaluation.classification import (
        classification_scores,
        majority_baseline,
        tfidf_baseline,
    )
    from megatron_core.parallel.mesh import open_mesh
    from megatron_core.trainer.assemble import classification
    from megatron_core.trainer.classification import ClassificationObjective, Examples
    from stages.training import publish

    documents = run.input("decontaminate")
    train, test = (
        chapter_texts(documents / split, config.source, config.codes_per_category, config.seed)
        for split in ("train", "heldout")
    )
    classes = sorted({*train.labels, *test.labels})
    tokenizer = Tokenizer.load(run.input("tokenizer"))
    train_examples, test_examples = (
        Examples.of(
            tokenizer.encode_batch(part.texts),
            [classes.index(label) for label in part.labels],
            config.sequence_length,
        )
        for part in (train, test)
    )
    inputs = {stage: run.input_roots[stage] for stage in ("tokenizer", "decontaminate")}
    with open_mesh(run.layout, config.device, config.threads) as mesh:
        trainer = classification(
            config, start, train_examples, test_examples, classes, inputs, RUNS, mesh
        )
        _, final = trainer.train()
        objective = trainer.objective
        if not isinstance(objective, ClassificationObjective):
            raise TypeError("a classifier is trained on a ClassificationObjective")
        rows = objective.test_logits(trainer.model.eval()).argmax(dim=-1).tolist()
    publish(trainer, run.output / "classification")
    predictions = {
        "model": [classes[row] for row in rows],
        "tfidf_logistic_regression": tfidf_baseline(train.texts, train.labels, test.texts),
        "majority": majority_baseline(train.labels, len(test.texts)),
    }
    results: dict[str, Any] = {
        name: classification_scores(test.labels, predicted, test.groups)
        for name, predicted in predictions.items()
    }
    results["examples"] = {"train": len(train.texts), "test": len(test.texts)}
    results["classes"] = len(classes)
    write_json(run.output / "classification" / "results.json", results)
    return results, final
