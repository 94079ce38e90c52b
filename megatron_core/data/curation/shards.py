"""Shard by shard: documents in, those that stay out, the rest counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron_core.config import CurateConfig
from megatron_core.data.curation.deidentification import Deidentifier
from megatron_core.data.curation.language import LanguageIdentifier
from megatron_core.data.curation.normalize import normalize
from megatron_core.data.curation.quality import QualityFilters
from megatron_core.data.curation.rules import drop_reason
from megatron_core.data.curation.tally import Tally
from megatron_core.data.documents import Document, list_shards, read_shard, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.errors import CorpusError
from megatron_core.files import write_json


def curate_documents(documents: Path, output: Path, config: CurateConfig, tasks: Tasks) -> Tally:
    """Write the documents that pass to ``output/documents``, in shards of the same names, and
    what each rule dropped to ``output/drops.json``.

    Raises:
        CorpusError: the input is empty or unreadable, or no document passes.
        MissingExtraError: the recipe switches on what needs an extra that is not installed.
        ConfigError: a language that is not known.
    """
    shards = list_shards(documents)
    Curator(config)  # what is missing shows before any work is done
    work = partial(_curate_shard, folder=output / "documents", config=config)
    tally = Tally()
    for counted in tasks.map("curate", work, shards):
        tally.merge(counted)
    if not tally.documents:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(tally.dropped.items()))
        raise CorpusError(
            f"no document of {documents} passes the rules of `curate` "
            f"({reasons or 'there are none'}): loosen them"
        )
    write_json(output / "drops.json", tally.drops())
    return tally


class Curator:
    """Everything that curation does to one document after another.

    A text is normalized; the rules and the language are asked about it as its author wrote it;
    then it is de-identified, and the filters see what a model would. Of what was dropped before
    that, samples are de-identified too.

    Raises:
        MissingExtraError: the recipe switches on what needs an extra that is not installed.
        ConfigError: a language that is not known.
    """

    def __init__(self, config: CurateConfig) -> None:
        self._config = config
        self._language = LanguageIdentifier(config.language) if config.language else None
        self._deidentifier = Deidentifier(config.deidentify) if config.deidentify else None
        self._filters = QualityFilters(config)

    def curate(self, document: Document, tally: Tally) -> Document | None:
        """``document`` as it stays, or None; counted in ``tally`` either way."""
        text = normalize(document.text)
        reason = drop_reason(text, self._config)
        if reason is None and self._language is not None:
            language, probability = self._language.identify(text)
            tally.count_language(document.source, language)
            reason = self._language.drop_reason(language, probability)
        if reason is not None:
            self._drop(reason, document.id, text, tally)
            return None
        edits: dict[str, Any] = {}
        if self._deidentifier is not None:
            deidentified = self._deidentifier.replace(text)
            text = deidentified.text
            if deidentified.counts:
                edits["deidentified"] = deidentified.counts
        judged = self._filters.judge(text)
        if judged.reason is not None:
            tally.drop(judged.reason, document.id, text)
            return None
        edits |= _removed(text, judged.text)
        text = judged.text
        tally.count_spans(document.source, edits.get("deidentified", {}))
        tally.keep(document.source, text)
        metadata = document.metadata | ({"edits": edits} if edits else {})
        return replace(document, text=text, metadata=metadata)

    def _drop(self, reason: str, id: str, text: str, tally: Tally) -> None:
        """Count a document that was not de-identified, and show no more of it than if it were."""
        if self._deidentifier is not None and tally.wants_sample(reason):
            text = self._deidentifier.replace(text).text  # whole: half a name is not known as one
        tally.drop(reason, id, text)


def _curate_shard(shard: Path, folder: Path, config: CurateConfig) -> Tally:
    curator, tally = Curator(config), Tally()

    def passing() -> Iterator[Document]:
        for document in read_shard(shard):
            if (curated := curator.curate(document, tally)) is not None:
                yield curated

    write_shard(folder / shard.name, passing())
    return tally


def _removed(before: str, after: str) -> dict[str, int]:
    """What a filter took out of a text: lines that are not blank, and characters of all kinds."""
    if before == after:
        return {}
    lines = _lines(before) - _lines(after)
    return {"characters_removed": len(before) - len(after)} | (
        {"lines_removed": lines} if lines > 0 else {}
    )


def _lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.split("\n"))
