"""What simple baselines reach on public tasks, trained on the training part alone.

Reads NCBI-disease, PubMedQA and MTS-Dialog from the folder in ``BENCHMARK_DATA``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import write_table
from megatron_core.data.tuning.entities import read_sentences
from megatron_core.data.tuning.instructions import read_prompts
from megatron_core.data.tuning.splits import read_ids, split_by_value
from megatron_core.data.tuning.texts import read_texts
from megatron_core.evaluation.classification import (
    classification_scores,
    majority_baseline,
    tfidf_baseline,
)
from megatron_core.evaluation.entities import dictionary_baseline, entity_scores
from megatron_core.evaluation.rouge import lead_baseline, rouge_scores

DATA = Path(os.environ.get("BENCHMARK_DATA", "../shared/data"))


def run() -> None:
    """One row for each baseline and metric."""
    rows = [*_entities(), *_classes(), *summaries()]
    write_table(
        "baselines", "python -m benchmarks.baselines",
        ["data", "baseline", "metric", "score", "95 % interval"], rows,
        "Intervals are a bootstrap over sentences, questions and dialogues.",
    )  # fmt: skip


def _entities() -> Iterator[list[str]]:
    train, devel, test = (
        read_sentences(DATA / "ncbi_disease" / f"{name}.tsv").items
        for name in ("train", "devel", "test")
    )
    words = [[word.text for word in one.words] for one in test]
    for name, known in (("train", train), ("train and devel", [*train, *devel])):
        found = dictionary_baseline(
            [[word.text for word in one.words] for one in known], [one.tags for one in known], words
        )
        scores = entity_scores([one.tags for one in test], found, [one.id for one in test])
        yield from _rows(
            f"NCBI disease, test ({scores['entities']} entities)", f"dictionary of {name}", scores,
            ("micro_f1", "micro_precision", "micro_recall"),
        )  # fmt: skip


def _classes() -> Iterator[list[str]]:
    folder = DATA / "pubmedqa"
    read = read_texts(
        folder / "ori_pqal.json", text="QUESTION", second="CONTEXTS", label="final_decision"
    ).items
    held = split_by_value([one.id for one in read], read_ids(folder / "test_ground_truth.json"))
    train = [one for one, out in zip(read, held, strict=True) if not out]
    test = [one for one, out in zip(read, held, strict=True) if out]
    known, truth = ([str(one.label) for one in part] for part in (train, test))
    pairs = [[(one.text, one.second or "") for one in part] for part in (train, test)]
    questions = [[one.text for one in part] for part in (train, test)]
    for name, found in {
        "majority": majority_baseline(known, len(test)),
        "TF-IDF of the question": tfidf_baseline(questions[0], known, questions[1]),
        "TF-IDF of question and abstract": tfidf_baseline(pairs[0], known, pairs[1]),
    }.items():
        scores = classification_scores(truth, found, [one.id for one in test])
        yield from _rows(f"PubMedQA, test ({len(test)})", name, scores, ("macro_f1", "accuracy"))


def summaries() -> Iterator[list[str]]:
    """Of MTS-Dialog: parts of the dialogue as its note."""
    test = read_prompts(
        DATA / "mts_dialog" / "TestSet-1-MEDIQA-Chat-2023.csv", prompt="dialogue",
        response="section_text", id="ID",
    ).items  # fmt: skip
    said, right = ([one.turns[n].content for one in test] for n in (0, 1))
    for name, found in {
        "first 3 sentences of the dialogue": lead_baseline(said, 3),
        "the whole dialogue": said,
    }.items():
        scores = rouge_scores(right, found, [one.id for one in test])
        yield from _rows(
            f"MTS-Dialog, test 1 ({len(test)})", name, scores, ("rouge_1", "rouge_2", "rouge_l")
        )


def _rows(
    data: str, name: str, scores: Mapping[str, Any], metrics: tuple[str, ...]
) -> Iterator[list[str]]:
    for metric in metrics:
        interval = ""
        if f"{metric}_low" in scores:
            low, high = scores[f"{metric}_low"], scores[f"{metric}_high"]
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
        yield [data, name, metric, f"{100 * scores[metric]:.1f}", interval]


if __name__ == "__main__":
    run()
