"""From a source's config to the source."""

from __future__ import annotations

from megatron_core.config.corpus import sources as corpus
from megatron_core.data.sources.hpo import HpoTerms
from megatron_core.data.sources.hub import HubRows
from megatron_core.data.sources.icd10cm import Icd10CmCategories
from megatron_core.data.sources.jsonl import JsonLines
from megatron_core.data.sources.parquet import ParquetFiles
from megatron_core.data.sources.source import Source
from megatron_core.data.sources.text import TextFiles
from megatron_core.data.sources.web import WebPages
from megatron_core.data.sources.wikipedia import WikipediaArticles


def open_source(config: corpus.Source, workers: int = 1) -> Source:
    """The source that ``config`` describes; nothing is read before it is iterated.

    ``workers`` is the number of processes for a source that needs much work per record.
    """
    match config:
        case corpus.GensimWikipedia():
            return WikipediaArticles(workers)
        case corpus.Icd10Cm():
            return Icd10CmCategories()
        case corpus.Hpo():
            return HpoTerms()
        case corpus.Jsonl():
            return JsonLines(config)
        case corpus.Parquet():
            return ParquetFiles(config)
        case corpus.PlainText():
            return TextFiles(config)
        case corpus.Warc():
            return WebPages(config, workers)
        case corpus.HubDataset():
            return HubRows(config)
