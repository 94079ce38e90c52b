"""``reforge trace``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megatron_core.errors import ConfigError, IntegrityError
from stages.run import ARTIFACTS, RUNS, open_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from megatron_core.config import PredictionConfig
    from megatron_core.data.provenance import TracedDocument
    from megatron_core.identity import Manifest

RUN_STAGES = {"pretrain": "pretrain", "finetune.continued": "finetune"}
_CHAIN = ("ingest", "curate", "dedup", "decontaminate", "tokenizer", "tokenize")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and newlines
_SHOWN_DUPLICATES = 10


def trace(
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", help="Number of a training sample, from 0.")
    ],
    run: Annotated[
        str, typer.Option("--run", metavar="NAME", help="`pretrain` or `finetune.continued`.")
    ] = "pretrain",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print which documents a training sample is made of, and all that was done to them.

    Step s of a run with B sequences per batch takes the samples (s - 1)·B … s·B - 1. Of each
    document it prints the row of its source, with the file and line; which of its tokens the sample
    holds, and the text that they spell; what normalization and the rules of curation changed; which
    documents dedup dropped in its favour; and its split.

    Reads the artifacts of the project in this folder, from `ingest` to the run's. They must belong
    together: each was made from the others that are here, and the document's text gives the
    sample's tokens. A canary, which `tokenize` made up, is told as one. An encoder sees the text
    with some tokens masked.
    """
    if run not in RUN_STAGES:
        raise ConfigError(f"--run {run}: must be one of {', '.join(RUN_STAGES)}")
    if sample < 0:
        raise ConfigError(f"--sample {sample}: samples are counted from 0")
    manifests = _open_chain(run)
    config = _config(run, manifests)
    taken = config.steps * config.batch.sequences
    if sample >= taken:
        raise ConfigError(
            f"--sample {sample}: {run} took {taken:,} samples, {config.batch.sequences} in each of "
            f"{config.steps:,} steps" + (f"; the last is {taken - 1}" if taken else "")
        )
    step, place = divmod(sample, config.batch.sequences)
    documents = _trace(sample, config, manifests)
    found = {
        "run": run, "sample": sample, "step": step + 1, "sequence": place,
        "documents": [asdict(document) for document in documents],
    }  # fmt: skip
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(f"sample {sample} of {run}: step {step + 1}, sequence {place} of its batch")
    for document in documents:
        print("\n".join(_described(document)))


def _open_chain(run: str) -> dict[str, Manifest]:
    """The manifests of all stages up to the run's, each made from the others."""
    from megatron_core.audit import chain_problems

    stages = [*_CHAIN, *dict.fromkeys(["pretrain", RUN_STAGES[run]])]
    manifests = {stage: open_input("trace", stage) for stage in stages}
    if problems := chain_problems(manifests):
        raise IntegrityError("the artifacts do not belong together:\n  " + "\n  ".join(problems))
    return manifests


def _config(run: str, manifests: Mapping[str, Manifest]) -> PredictionConfig:
    """The run's section as it was when it was trained, which ``params.yaml`` may be no more."""
    from megatron_core.config import ContinuedConfig, PretrainConfig

    if run == "pretrain":
        return PretrainConfig.model_validate(manifests["pretrain"].recipe)
    continued = manifests["finetune"].recipe["continued"]
    if continued is None:
        raise ConfigError(f"--run {run}: the recipe has no continued pretraining")
    return ContinuedConfig.model_validate(continued)


def _trace(
    sample: int, config: PredictionConfig, manifests: Mapping[str, Manifest]
) -> list[TracedDocument]:
    from megatron_core.config import PretrainConfig
    from megatron_core.data.provenance import Artifacts, trace_spans
    from megatron_core.trainer.assemble import prediction_objective

    model = PretrainConfig.model_validate(manifests["pretrain"].recipe).model
    objective = prediction_objective(config, model, ARTIFACTS / "tokenize", RUNS)
    recipe: Mapping[str, Any] = manifests["tokenize"].recipe
    return trace_spans(
        objective.locate(sample),
        objective.streams,
        Artifacts.below(ARTIFACTS),
        frame=objective.frame,
        end_of_document=recipe["append_end_of_document"],
        parse_special_tokens=recipe["parse_special_tokens"],
    )


def _described(document: TracedDocument) -> list[str]:
    """What is printed of a document."""
    (start, stop), (first, last) = document.positions, document.tokens
    lines = [
        "",
        f"positions {start}–{stop - 1}: document {document.id}",
        f"  source       {document.source}, row {document.row}"
        + "".join(f", {key} {value}" for key, value in (document.origin or {}).items()),
        *(f"  {key:<12} {_visible(str(value))}" for key, value in document.metadata.items()),
        f"  tokens       {first}–{last - 1} of {document.document_tokens}",
    ]
    if document.planted is not None:
        lines.append(f"  canary       made up, and planted {document.planted} times by tokenize")
    else:
        dropped = len(document.duplicates) or "none"
        lines += _described_curation(document)
        lines.append(f"  dedup        kept; {dropped} dropped in its favour")
    for duplicate in document.duplicates[:_SHOWN_DUPLICATES]:
        lines.append(
            f"    {duplicate['id']}: {duplicate['kind']}, similarity {duplicate['similarity']:.2f}"
        )
    if len(document.duplicates) > _SHOWN_DUPLICATES:
        lines.append(f"    and {len(document.duplicates) - _SHOWN_DUPLICATES} more")
    lines += [f"  split        {document.split}", "  text"]
    return lines + [f"    {line}" for line in _visible(document.text).split("\n")]


def _described_curation(document: TracedDocument) -> list[str]:
    curation = document.curation
    if curation is None:
        return ["  curate       changed nothing"]
    edits = f"; {json.dumps(curation.edits, ensure_ascii=False)}" if curation.edits else ""
    change = f"{curation.characters_before:,} → {curation.characters_after:,} characters"
    return [f"  curate       {change}{edits}", *(f"    {_visible(line)}" for line in curation.diff)]


def _visible(text: str) -> str:
    """``text`` without the characters that would command a terminal."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
