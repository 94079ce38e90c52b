"""What the corpus is, what was taken out of it and why, and how it is cut into tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_core.reporting.project import Project
from megatron_core.reporting.reasons import curate_rule, overlap_rule
from megatron_core.reporting.wording import Piece, mark_differences, name

_EXAMPLES = 3
_CUT = 200  # characters the stages keep of a sample; a text that long goes on


@dataclass(frozen=True)
class Source:
    """One source from documents to tokens; counts of whole documents, characters and tokens."""

    name: str
    documents: int
    characters: int
    train_documents: int
    train_tokens: int
    heldout_documents: int
    heldout_tokens: int
    bytes_per_token: float | None


@dataclass(frozen=True)
class Removal:
    """Documents that one rule of one stage took out."""

    stage: str
    reason: str
    rule: str
    documents: int


@dataclass(frozen=True)
class Duplicate:
    """A removed document beside the one kept in its place, in pieces that agree or differ."""

    id: str
    kept: str
    kind: str
    similarity: float
    removed_text: list[Piece]
    kept_text: list[Piece]


@dataclass(frozen=True)
class Drop:
    """A document that a quality rule dropped."""

    id: str
    reason: str
    text: str


@dataclass(frozen=True)
class Overlap:
    """A training document that shares word n-grams with an evaluation set."""

    id: str
    against: str
    overlap: float
    ngram: str


@dataclass(frozen=True)
class Replaced:
    """Spans of one class of identifiers that curation replaced in the documents it kept."""

    kind: str
    spans: int
    by_source: list[tuple[str, int]]


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer on its sample."""

    entries: int
    documents: int
    exact_round_trips: int
    bytes_per_token: float
    tokens_per_word: float


@dataclass(frozen=True)
class Data:
    """The section on data."""

    sources: list[Source]
    removals: list[Removal]
    duplicates: list[Duplicate]
    drops: list[Drop]
    overlaps: list[Overlap]
    vocabulary: Vocabulary
    deidentified: bool
    replaced: list[Replaced]

    @property
    def documents(self) -> int:
        """Documents read."""
        return sum(source.documents for source in self.sources)

    @property
    def train_tokens(self) -> int:
        """Tokens to train on."""
        return sum(source.train_tokens for source in self.sources)

    @property
    def heldout_tokens(self) -> int:
        """Tokens held out."""
        return sum(source.heldout_tokens for source in self.sources)

    @property
    def removed(self) -> int:
        """Documents taken out by any rule; those held out are not."""
        return sum(removal.documents for removal in self.removals)


def read_data(project: Project) -> Data:
    """Read the section from stages ingest to tokenize."""
    report = project.read("tokenizer", "report.json")
    sample = report["sample"]
    return Data(
        sources=_sources(project, report["sources"]),
        removals=_removals(project),
        duplicates=[_duplicate(line) for line in _near_examples(project)],
        drops=[
            Drop(sample["id"], name(reason), _shown(sample["text"]))
            for reason, dropped in project.read("curate", "drops.json").items()
            for sample in dropped["samples"][:_EXAMPLES]
        ],
        overlaps=[
            Overlap(line["id"], _set_name(line["against"]), line["overlap"], line["ngram"])
            for line in _spread(project.lines("decontaminate", "removed.jsonl"), "overlap")
        ],
        vocabulary=Vocabulary(
            entries=report["vocabulary"],
            documents=sample["documents"],
            exact_round_trips=sample["exact_round_trips"],
            bytes_per_token=sample["bytes_per_token"],
            tokens_per_word=sample["tokens_per_word"],
        ),
        deidentified=project.manifests["curate"].recipe.get("deidentify") is not None,
        replaced=_replaced(project.numbers("curate").get("sources", {})),
    )


def _replaced(sources: Mapping[str, Mapping[str, Any]]) -> list[Replaced]:
    """The classes with spans, the most frequent first."""
    found = {source: of.get("deidentified", {}) for source, of in sources.items()}
    kinds = {kind for counts in found.values() for kind in counts}
    replaced = [
        Replaced(
            kind,
            sum(counts.get(kind, 0) for counts in found.values()),
            [(name(source), counts[kind]) for source, counts in found.items() if kind in counts],
        )
        for kind in kinds
    ]
    return sorted(replaced, key=lambda one: (-one.spans, one.kind))


def _sources(project: Project, tokenizer: Mapping[str, Any]) -> list[Source]:
    tokens = project.numbers("tokenize")

    def tokenized(split: str, source: str, what: str) -> int:
        return int(tokens[split]["sources"].get(source, {}).get(what, 0))

    return [
        Source(
            name=name(source),
            documents=read["documents"],
            characters=read["characters"],
            train_documents=tokenized("train", source, "documents"),
            train_tokens=tokenized("train", source, "tokens"),
            heldout_documents=tokenized("heldout", source, "documents"),
            heldout_tokens=tokenized("heldout", source, "tokens"),
            bytes_per_token=tokenizer.get(source, {}).get("bytes_per_token"),
        )
        for source, read in project.numbers("ingest")["sources"].items()
    ]


def _removals(project: Project) -> list[Removal]:
    """Every rule that removed something, in the order the stages tried them."""
    recipes = {stage: manifest.recipe for stage, manifest in project.manifests.items()}
    dedup, clean = recipes["dedup"], recipes["decontaminate"]
    broken = project.numbers("ingest")["broken"]
    curated, deduped = project.numbers("curate"), project.numbers("dedup")
    found = [
        Removal("ingest", "unreadable", "no text could be read", broken),
        *(_dropped(reason, lost, recipes["curate"]) for reason, lost in curated["reasons"].items()),
        Removal("dedup", "exact copies", "the same words as another document", deduped["exact"]),
        Removal(
            "dedup", "near-duplicates",
            f"word {dedup['ngram']}-grams alike: Jaccard similarity {dedup['min_jaccard']} or more",
            deduped["near"],
        ),
        *(
            Removal(
                "decontaminate", f"overlap with {_set_name(against)}", overlap_rule(clean), lost
            )
            for against, lost in project.numbers("decontaminate")["removed"].items()
        ),
    ]  # fmt: skip
    return [removal for removal in found if removal.documents]


def _dropped(reason: str, documents: int, recipe: Mapping[str, Any]) -> Removal:
    rule = curate_rule(reason, recipe)
    return Removal("curate", reason if rule is None else name(reason), rule or "", documents)


def _set_name(against: str) -> str:
    return "the held-out documents" if against == "heldout" else name(against)


def _near_examples(project: Project) -> list[dict[str, Any]]:
    """Near-duplicates of several similarities whose difference shows in what was kept of them."""
    seen: set[str] = set()
    candidates = []
    for line in project.lines("dedup", "duplicates.jsonl"):
        if (
            line["kind"] == "near"
            and line["text"] != line["kept_text"]
            and line["kept"] not in seen
        ):
            seen.add(line["kept"])  # one of each group, or a large group would be all one sees
            candidates.append(line)
    return _spread(candidates, "similarity")


def _spread(lines: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The lines with the highest, the median and the lowest value of ``key``."""
    ordered = sorted(lines, key=lambda line: (-line[key], line["id"]))
    if len(ordered) <= _EXAMPLES:
        return ordered
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _duplicate(line: Mapping[str, Any]) -> Duplicate:
    removed, kept = mark_differences(_shown(line["text"]), _shown(line["kept_text"]))
    return Duplicate(line["id"], line["kept"], line["kind"], line["similarity"], removed, kept)


def _shown(text: str) -> str:
    """``text``, or all but its last word and an ellipsis when the stage cut it there."""
    return f"{text.rpartition(' ')[0]} …" if len(text) >= _CUT else text
