"""Labelled texts for the ICD-10-CM chapter classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megatron_core.data.datasets.order import permute
from megatron_core.data.documents import read_shards
from megatron_core.errors import CorpusError


@dataclass(frozen=True)
class LabelledTexts:
    """Descriptions of codes; ``groups`` are their three-character categories."""

    texts: list[str]
    labels: list[str]
    groups: list[str]


def chapter_texts(folder: Path, source: str, per_category: int, seed: int) -> LabelledTexts:
    """Descriptions and chapters of the codes in the documents of ``folder``.

    A document is a category, so a split of documents never has siblings on both sides.

    Raises:
        CorpusError: ``source`` has no codes here, or codes of one chapter only.
    """
    texts: list[str] = []
    labels: list[str] = []
    groups: list[str] = []
    for document in read_shards(folder):
        if document.source != source:
            continue
        codes = document.metadata.get("codes", [])
        for i in range(min(per_category, len(codes))):
            _, description = codes[permute(i, len(codes), f"{seed}:{document.id}")]
            texts.append(description)
            labels.append(document.metadata["chapter"])
            groups.append(document.metadata["category"])
    if not texts:
        raise CorpusError(f"{folder} holds no codes of source {source}: ingest kind icd10cm")
    if len(set(labels)) < 2:
        raise CorpusError(
            f"the codes of source {source} in {folder} are all of chapter {labels[0]}, which "
            "leaves nothing to classify: raise ingest.max_documents or decontaminate.heldout"
        )
    return LabelledTexts(texts, labels, groups)
