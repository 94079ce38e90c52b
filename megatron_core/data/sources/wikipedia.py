"""The Wikipedia dump sample that gensim carries."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from megatron_core.data.sources.source import Record, package_file
from megatron_core.data.sources.wikitext import clean_wikitext
from megatron_core.data.tasks import ordered_map
from megatron_core.errors import CorpusError, MissingExtraError

_DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-*-shortened.bz2"
_NAMESPACE = "{http://www.mediawiki.org/xml/export-0.10/}"


class WikipediaArticles:
    """A record per article, redirects left out, as plain text."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __iter__(self) -> Iterator[Record]:
        """Clean the articles in the order of the dump.

        Raises:
            MissingExtraError: gensim or mwparserfromhell is not installed.
            CorpusError: the dump is missing or unreadable.
        """
        import importlib.util

        if importlib.util.find_spec("mwparserfromhell") is None:
            raise MissingExtraError("mwparserfromhell", "texts")
        articles = list(read_articles(package_file("gensim", _DUMP)))
        texts = ordered_map(clean_wikitext, [source for _, source in articles], self._workers)
        for (title, _), text in zip(articles, texts, strict=True):
            yield Record(text, {"title": title})


def read_articles(path: Path) -> Iterator[tuple[str, str]]:
    """Title and wikitext of every article in a bzip2 MediaWiki dump, redirects left out.

    Raises:
        CorpusError: the file is no such dump.
    """
    try:
        with bz2.open(path) as file:
            for _, page in ElementTree.iterparse(file):
                if page.tag != f"{_NAMESPACE}page":
                    continue
                if (
                    page.findtext(f"{_NAMESPACE}ns") == "0"
                    and page.find(f"{_NAMESPACE}redirect") is None
                ):
                    source = page.findtext(f"{_NAMESPACE}revision/{_NAMESPACE}text")
                    yield page.findtext(f"{_NAMESPACE}title") or "", source or ""
                page.clear()  # a dump is larger than memory
    except (OSError, EOFError, ElementTree.ParseError) as error:
        raise CorpusError(f"{path} cannot be read as a MediaWiki dump: {error}") from error
