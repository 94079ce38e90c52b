"""``reforge convert``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from megatron_core.config.convert import ConvertConfig, Dtype
from megatron_core.errors import ConfigError
from megatron_core.files import staged_folder
from stages.models import language_models
from stages.options import DEFAULT_PARAMS, DryRun, Overrides, Params
from stages.run import ARTIFACTS, console, stage_run

Source = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="DIR", help="One model by hand: its folder, of any of the formats."
    ),
]
Target = Annotated[
    Path | None, typer.Option("--to", metavar="DIR", help="By hand: the folder to make.")
]
Format = Annotated[
    str, typer.Option("--format", help="By hand: reforge, hugging_face, megatron_core or gguf.")
]
TokenizerFolder = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        help="By hand: the tokenizer that goes along; by default the one in the model's folder.",
    ),
]
StoredAs = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="By hand: float32, bfloat16 or float16; by default that of the model's folder.",
    ),
]
Logits = Annotated[
    bool,
    typer.Option(help="By hand: compare logits with transformers; both models are then in memory."),
]


def convert(
    params: Params = DEFAULT_PARAMS,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    source: Source = None,
    target: Target = None,
    form: Format = "reforge",
    tokenizer: TokenizerFolder = None,
    dtype: StoredAs = None,
    logits: Logits = True,
) -> None:
    """Write the trained models for other libraries, each with a certificate.

    `artifacts/convert/pretrain`, `artifacts/convert/continued` and `artifacts/convert/NAME` of
    each task that leaves a language model load with `AutoModelForCausalLM.from_pretrained` and
    `AutoTokenizer.from_pretrained`, offline; encoders with `AutoModelForMaskedLM`. LoRA is merged;
    a model with a soft prompt is left out, since other libraries know none. With
    `also: [megatron_core, gguf]` there are `pretrain-megatron_core` and `pretrain-gguf` and so on
    too: distributed checkpoints that Megatron-Core loads on any layout, and a `model.gguf` for
    llama.cpp. Each holds a `certificate.json`: the hash of every tensor on both sides, read back
    from the disk, and the largest difference between our logits and those of transformers. The
    stage fails when a tensor's bits or the logits are not the same.

    By hand, and without a recipe, `--from DIR --to DIR --format FORMAT` takes one model from any
    format to any other, a tensor at a time; GGUF is written only. What is made with `--format
    reforge` can be trained on, on any grid: it has `checkpoints/`, `tokenizer/` and the
    certificate.
    """
    # Both are read when the libraries are imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if source is not None or target is not None:
        if source is None or target is None:
            raise ConfigError("by hand, both are needed: --from DIR and --to DIR")
        _convert_folder(source, target, form, tokenizer, dtype, logits)
        return
    if tokenizer is not None or dtype is not None or form != "reforge" or not logits:
        raise ConfigError(
            "--format, --tokenizer, --dtype and --no-logits go with --from DIR and --to DIR; "
            "of the project's models section convert of the recipe says it"
        )
    _convert_project(params, overrides, dry_run)


def _convert_project(params: Path, overrides: list[str] | None, dry_run: bool) -> None:
    with stage_run(
        "convert", params=params, overrides=overrides, dry_run=dry_run,
        inputs=["pretrain", "finetune", "tokenizer"],
    ) as run:  # fmt: skip
        from megatron_core.exchange import ModelFolder, write_model

        config = run.recipe.convert
        metrics: dict[str, Any] = {}
        prompted = []
        for trained in language_models(run.recipe.finetune):
            if trained.prompted:
                prompted.append(trained.name)
                continue
            model = ModelFolder.open(trained.below(ARTIFACTS))
            for form in ("hugging_face", *config.also):
                made = trained.folder if form == "hugging_face" else f"{trained.folder}-{form}"
                certificate = write_model(
                    model, run.input("tokenizer"), run.output / made, form, config
                )
                if form == "hugging_face":
                    metrics[trained.folder] = _numbers(certificate)
        run.metrics(metrics)
        left_out = {"left out, for their soft prompts": ", ".join(prompted)} if prompted else {}
        run.summary(_rows(metrics) | left_out)


def _convert_folder(
    source: Path, target: Path, form: str, tokenizer: Path | None, dtype: str | None, logits: bool
) -> None:
    """One model from a folder to another, which is there whole or not at all."""
    from megatron_core.exchange import FORMATS, ModelFolder, write_model

    if form not in FORMATS:
        raise ConfigError(f"--format {form}: must be one of {', '.join(FORMATS)}")
    if dtype is not None and dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: must be one of {', '.join(get_args(Dtype))}")
    if form == "reforge" and dtype not in (None, "float32"):
        raise ConfigError(f"--dtype {dtype}: checkpoints are float32, which holds every other")
    if target.exists():
        raise ConfigError(f"--to {target}: is there already; name a new folder")
    model = ModelFolder.open(source)
    config = ConvertConfig.model_validate({"dtype": dtype or model.dtype, "compare_logits": logits})
    with staged_folder(target) as staging:
        certificate = write_model(model, tokenizer or model.tokenizer, staging, form, config)
    rows = _rows({target.name: _numbers(certificate)})
    shown = ", ".join(f"{name} {value}" for name, value in rows.items())
    console.print(f"{target}: every tensor is bitwise the same; {shown}", highlight=False)


def _numbers(certificate: dict[str, Any]) -> dict[str, Any]:
    return {key: certificate[key] for key in ("max_logit_difference", "parameters", "bytes")}


def _rows(metrics: dict[str, Any]) -> dict[str, Any]:
    last = list(metrics.values())[-1]
    differences = [of["max_logit_difference"] for of in metrics.values()]
    compared = [difference for difference in differences if difference is not None]
    return {
        "parameters": last["parameters"],
        "size of a model": f"{last['bytes'] / 1e6:.1f} MB",
        "largest logit difference": max(compared, default="not compared"),
    }
