"""``reforge convert``."""

from __future__ import annotations

import os

from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import stage_run


def convert(
    params: Params = DEFAULT_PARAMS, overrides: Overrides = None, dry_run: DryRun = False
) -> None:
    """Write the trained models as Hugging Face folders, each with a certificate.

    `artifacts/convert/pretrain` and `artifacts/convert/continued` load with
    `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`, offline. Each
    holds a `certificate.json`: the hash of every tensor on both sides, read back from the disk,
    and the largest difference between our logits and those of transformers. The stage fails when
    a tensor's bits or the logits are not the same.
    """
    # Both are read when the libraries are imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from megatron_core.checkpoint import StoredWeights, find_checkpoints, read_checkpoint
    from megatron_core.config import ModelConfig
    from megatron_core.conversion import export_model

    with stage_run(
        "convert", params=params, overrides=overrides, dry_run=dry_run,
        inputs=["pretrain", "finetune", "tokenizer"],
    ) as run:  # fmt: skip
        metrics = {}
        for name, folder in (
            ("pretrain", run.input("pretrain") / "checkpoints"),
            ("continued", run.input("finetune") / "continued" / "checkpoints"),
        ):
            path = find_checkpoints(folder)[-1]
            checkpoint = read_checkpoint(path)
            certificate = export_model(
                StoredWeights(path),
                ModelConfig.model_validate(checkpoint.model["config"]),
                run.input("tokenizer"),
                run.output / name,
                run.recipe.convert,
                checkpoint=checkpoint.root,
            )
            kept = ("max_logit_difference", "parameters", "bytes")
            metrics[name] = {key: certificate[key] for key in kept}
        run.metrics(metrics)
        run.summary(
            {
                "parameters": metrics["continued"]["parameters"],
                "size of a model": f"{metrics['continued']['bytes'] / 1e6:.1f} MB",
                "largest logit difference": max(
                    values["max_logit_difference"] for values in metrics.values()
                ),
            }
        )
