"""The pipeline as a picture: what went through each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_core.config import STAGES
from megatron_core.reporting.data import Data
from megatron_core.reporting.evaluation import Evaluation
from megatron_core.reporting.results import Results
from megatron_core.reporting.training import Run
from megatron_core.reporting.wording import amount, count, listing, name, plural, scientific


@dataclass(frozen=True)
class Node:
    """A stage: the number that leaves it, what that counts, what else happened."""

    stage: str
    number: str
    what: str
    note: str


def pipeline_nodes(results: Results) -> list[Node]:
    """The twelve stages in order."""
    shown = {**_text_stages(results.data), **_model_stages(results)}
    return [Node(stage, *shown[stage]) for stage in STAGES]


def _text_stages(data: Data) -> dict[str, tuple[str, str, str]]:
    left = data.documents
    shown = {}
    characters = sum(source.characters for source in data.sources)
    for stage in ("ingest", "curate", "dedup"):
        lost = {r.reason: r.documents for r in data.removals if r.stage == stage}
        left -= sum(lost.values()) if stage != "ingest" else 0
        read = f"{amount(characters)} characters of {plural(len(data.sources), 'source')}"
        shown[stage] = (count(left), "documents", read if stage == "ingest" else _lost(lost))
    heldout = sum(source.heldout_documents for source in data.sources)
    overlaps = sum(r.documents for r in data.removals if r.stage == "decontaminate")
    train = sum(source.train_documents for source in data.sources)
    vocabulary = data.vocabulary
    return shown | {
        "decontaminate": (
            count(train), "to train on", f"{count(heldout)} held out, {count(overlaps)} overlap"
        ),
        "tokenizer": (
            count(vocabulary.entries), "entries",
            f"{vocabulary.bytes_per_token:.2f} bytes per token",
        ),
        "tokenize": (
            amount(data.train_tokens), "tokens", f"{amount(data.heldout_tokens)} more held out"
        ),
    }  # fmt: skip


def _lost(reasons: Mapping[str, int]) -> str:
    if not reasons:
        return "none removed"
    if len(reasons) == 1:
        return f"{count(sum(reasons.values()))} removed: {''.join(reasons)}"
    parts = [f"{count(lost)} {reason}" for reason, lost in reasons.items()]
    return f"{count(sum(reasons.values()))} removed: {listing(parts)}"


def _model_stages(results: Results) -> dict[str, tuple[str, str, str]]:
    training = results.training
    runs = {run.key: run for run in training.runs}
    verdict = results.proof.verdict
    return {
        "pretrain": (
            amount(training.parameters), "parameters",
            _losses(runs["pretrain"]) if "pretrain" in runs else "taken as it was",
        ),
        "finetune": _finetuned(results, runs.get("continued")),
        "convert": (count(len(results.converted)), "Hugging Face folders", _converted(results)),
        "evaluate": _evaluated(results.evaluation),
        "audit": (
            count(len(results.proof.roots)), "artifacts hashed",
            "all agree" if verdict.good else "not all agree",
        ),
        "report": ("1", "page", "this one"),
    }  # fmt: skip


def _finetuned(results: Results, continued: Run | None) -> tuple[str, str, str]:
    """What the first task reaches, and how far continued pretraining went."""
    tasks = results.evaluation.tasks
    trained = plural(len(tasks), "task")
    note = trained if continued is None else _losses(continued)
    if tasks and tasks[0].value is not None:
        return f"{tasks[0].value:.3f}", f"{tasks[0].metric}, {name(tasks[0].key)}", note
    return "", "adapted" if continued or tasks else "nothing fine-tuned", note


def _evaluated(evaluation: Evaluation) -> tuple[str, str, str]:
    asked = evaluation.multiple_choice
    questions = f"; {plural(asked.questions, 'question')}" if asked else ""
    if evaluation.perplexity is not None:
        best = next(score for score in evaluation.perplexity.scores[name("all")] if score.best)
        return (
            f"{best.bits_per_byte:.3f}", "bits per byte", f"{best.model} is best{questions}"
        )  # fmt: skip
    if evaluation.masked is None:
        return "", "no scores", ""
    most = next(bar for bar in evaluation.masked.bars if bar.best)
    return most.shown, "of hidden tokens found", f"{most.label} is best"


def _losses(run: Run) -> str:
    steps = plural(run.steps, "step")
    if run.heldout_last is None:
        return f"{steps}, loss {run.loss:.2f}"
    return f"{steps}, held-out loss {run.heldout_last[1]:.2f}"


def _converted(results: Results) -> str:
    differences = [
        difference for difference in results.converted.values() if difference is not None
    ]
    if len(differences) < len(results.converted):
        return "tensors equal, logits not compared"
    largest = max(differences)
    if largest == 0:
        return "tensors and logits equal"
    return f"tensors equal, logits within {scientific(largest)}"
