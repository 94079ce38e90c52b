"""A finished project written by hand, for tests of what reads artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_core.files import write_json, write_text
from megatron_core.identity import Environment, Manifest, RunRecord, manifest_path

HOSTILE = '<script>alert("x")</script> & <b>bold</b> fever'
ENVIRONMENT = Environment(
    cpu="Maker family 1 model 2", instructions="avx2 fma", gpu=None, python="3.11.7",
    system="Linux x86_64", libraries={"torch": "2.13.0", "numpy": "2.4.6"},
)  # fmt: skip

_TRAINING = {"batch": {"sequences": 8, "microbatch": 4}, "sequence_length": 16}
RECIPES: dict[str, dict[str, Any]] = {
    "curate": {
        "min_characters": 40, "max_characters": 1000, "min_alphabetic": 0.5,
        "max_repeated_lines": 0.5,
    },
    "dedup": {"ngram": 5, "min_jaccard": 0.7},
    "decontaminate": {"ngram": 13, "max_overlap": 0.2, "max_covered": 0.8},
    "pretrain": {
        **_TRAINING,
        "model": {
            "kind": "decoder", "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48,
            "vocabulary": 300,
        },
    },
    "finetune": {
        "continued": _TRAINING,
        "tasks": {
            "chapters": {**_TRAINING, "kind": "classification", "seed": 3, "repeats": 1},
            "ner": {**_TRAINING, "kind": "entities", "seed": 3, "repeats": 2},
        },
    },
}  # fmt: skip


def steps(number: int, start: float) -> str:
    """A steps.jsonl whose loss falls from ``start`` by 0.01 a step, held out every fourth step."""
    records = []
    for step in range(1, number + 1):
        loss = start - step / 100
        record = {"step": step, "loss": loss, "learning_rate": 1e-3, "gradient_norm": 0.5}
        records.append(record | ({"heldout_loss": loss + 0.5} if step % 4 == 0 else {}))
    return "".join(json.dumps(record) + "\n" for record in records)


def scores() -> dict[str, Any]:
    """Scores in which the trigram wins over all text and the adapted model on notes."""
    bits = {
        "all": {"unigram": 2.5, "bigram": 2.0, "trigram": 1.5, "pretrained": 1.9, "adapted": 1.8},
        "notes": {"unigram": 2.5, "bigram": 2.0, "trigram": 1.7, "pretrained": 1.8, "adapted": 1.6},
        "books": {"unigram": 2.5, "bigram": 2.0, "trigram": 1.3, "pretrained": 2.0, "adapted": 2.1},
    }
    return {
        "documents": {"notes": 3, "books": 2},
        "questions": 40,
        "perplexity": {
            source: {
                model: {
                    "bits_per_byte": value,
                    "bits_per_byte_low": value - 0.1,
                    "bits_per_byte_high": value + 0.1,
                    "token_perplexity": 9.0,
                    "word_perplexity": 50.0,
                }
                for model, value in models.items()
            }
            for source, models in bits.items()
        },
        "multiple_choice": {
            "unigram": {"accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.3},
            "adapted": {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6},
            "chance": {"accuracy": 0.25},
        },
        "tasks": {
            "lambada": {
                "chance": 0.25,
                "data": {"documents": "0" * 64, "requests": "1" * 64},
                "models": {
                    "adapted": {
                        "acc": {"value": 0.4321, "low": 0.4, "high": 0.456, "documents": 70}
                    }
                },
            }
        },
    }


def masked() -> dict[str, Any]:
    """Scores of encoders, of which the adapted one finds more."""

    def of(value: float) -> dict[str, float]:
        found = {"tokens": 300, "sequences": 40}
        for name, score in (("accuracy", value), ("loss", 3.0), ("pair_accuracy", 0.5)):
            found |= {name: score, f"{name}_low": score - 0.1, f"{name}_high": score + 0.1}
        return found

    return {
        "documents": {}, "questions": 0, "perplexity": {}, "multiple_choice": {}, "tasks": {},
        "masked": {"pretrained": of(0.3), "adapted": of(0.4)},
    }  # fmt: skip


def classified() -> dict[str, Any]:
    """Scores of a task in which the baseline wins clearly."""

    def of(value: float) -> dict[str, Any]:
        interval = {"low": value - 0.02, "high": value + 0.02}
        return {"macro_f1": {"value": value, **interval}, "accuracy": {"value": value}}

    return {
        "kind": "classification", "metric": "macro_f1",
        "details": {"train": 90, "test": 10, "classes": 7, "cut": 0},
        "scores": {
            "model": of(0.5), "tfidf_logistic_regression": of(0.6), "majority": of(0.1)
        },
        "seeds": {"3": of(0.5)},
    }  # fmt: skip


def found_entities() -> dict[str, Any]:
    """Scores of a task that was trained twice, in which the model wins."""

    def of(value: float, **more: float) -> dict[str, Any]:
        return {"micro_f1": {"value": value, **more}}

    return {
        "kind": "entities", "metric": "micro_f1", "details": {"train": 1234, "test": 20},
        "scores": {
            "model": of(0.8125, low=0.8, high=0.825, spread=0.011),
            "dictionary": of(0.6, low=0.58, high=0.62),
        },
        "seeds": {"4": of(0.82), "3": of(0.805)},
    }  # fmt: skip


def artifacts() -> dict[str, dict[str, Any]]:
    """Files by stage and name: text, or a value that is written as JSON."""
    sample = {
        "documents": 80, "exact_round_trips": 80, "bytes_per_token": 3.5, "tokens_per_word": 1.5
    }  # fmt: skip
    near = {
        "id": "notes/7", "kept": "notes/6", "kind": "near", "similarity": 0.8,
        "text": HOSTILE, "kept_text": HOSTILE.replace("fever", "cough"),
    }  # fmt: skip
    overlap = {"id": "books/1", "against": "heldout", "overlap": 0.5, "ngram": HOSTILE}
    return {
        "ingest": {"broken.jsonl": ""},
        "curate": {
            "drops.json": {
                "too_short": {"documents": 5, "samples": [{"id": "notes/1", "text": HOSTILE}]}
            }
        },
        "dedup": {"duplicates.jsonl": json.dumps(near) + "\n"},
        "decontaminate": {"removed.jsonl": json.dumps(overlap) + "\n"},
        "tokenizer": {
            "report.json": {
                "vocabulary": 300, "sample": sample, "sources": {"notes": {"bytes_per_token": 3.2}}
            }
        },
        "tokenize": {},
        "pretrain": {"steps.jsonl": steps(20, 6.0)},
        "finetune": {
            "continued/steps.jsonl": steps(8, 5.0),
            "chapters/steps.jsonl": steps(8, 2.0),
            "ner-3/steps.jsonl": steps(8, 1.0),
            "ner-4/steps.jsonl": steps(8, 1.1),
            "results/chapters.json": classified(),
            "results/ner.json": found_entities(),
        },
        "convert": {},
        "evaluate": {
            "scores.json": scores(),
            "generations.json": [
                {"model": model, "prompt": HOSTILE, "text": f" said {model}"}
                for model in ("pretrained", "adapted")
            ],
        },
    }  # fmt: skip


def metrics() -> dict[str, dict[str, Any]]:
    """Metrics by stage."""
    tokens = {"documents": 40, "tokens": 1000}
    return {
        "ingest": {
            "broken": 0,
            "sources": {name: {"documents": 50, "characters": 5000} for name in ("notes", "books")},
        },
        "curate": {"reasons": {"too_short": 5}},
        "dedup": {"exact": 0, "near": 1},
        "decontaminate": {"removed": {"heldout": 4}},
        "tokenize": {
            "train": {"sources": {"notes": tokens, "books": tokens}},
            "heldout": {"sources": {"notes": {"documents": 10, "tokens": 200}}},
        },
        "pretrain": {"parameters": 12345},
        "convert": {"pretrain": {"max_logit_difference": 0.0}},
    }


def write_stage(
    folder: Path, stage: str, files: dict[str, Any], *, seconds: float = 1.5, ranks: int = 1
) -> Manifest:
    """Write one artifact with its manifest."""
    artifact = folder / "artifacts" / stage
    artifact.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write = write_text if isinstance(content, str) else write_json
        write(artifact / name, content)
    manifest = Manifest.of(
        artifact,
        stage=stage,
        inputs={},
        recipe=RECIPES.get(stage, {}),
        record=RunRecord(
            command=f"reforge {stage}", started="2026-01-01T00:00:00+00:00", seconds=seconds,
            layout={"data": ranks}, environment=ENVIRONMENT,
        ),
    )  # fmt: skip
    manifest.write(manifest_path(artifact))
    return manifest


def audit(roots: dict[str, str], ranks: int = 2) -> dict[str, Any]:
    """A clean audit of ``roots`` with a replay that agrees."""
    return {
        "stages": {
            stage: {"root": root, "files": 3, "checkpoints": {}} for stage, root in roots.items()
        },
        "replay": {
            "from_step": 15, "to_step": 20, "root": "a" * 64, "recorded_root": "a" * 64,
            "same": True, "layout": {"data": 1}, "recorded_layout": {"data": ranks},
        },
    }  # fmt: skip


def write_project(folder: Path, *, seconds: float = 1.5, ranks: int = 1) -> Path:
    """A project whose stages have run up to the audit."""
    roots = {
        stage: write_stage(folder, stage, files, seconds=seconds, ranks=ranks).root
        for stage, files in artifacts().items()
    }
    write_stage(folder, "audit", {"audit.json": audit(roots, ranks)}, seconds=seconds)
    for stage, numbers in metrics().items():
        write_json(folder / "metrics" / f"{stage}.json", numbers)
    (folder / "params.yaml").write_text(
        "ingest: {sources: {icd10cm: {kind: icd10cm}, hpo: {kind: hpo}}}\n"
        "report: {title: A tiny model}\n"
    )
    return folder
