"""Web archives: the main text of their pages."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_core.config.corpus.sources import Warc
from megatron_core.data.sources.archive import ArchivedResponse, parse_response, read_responses
from megatron_core.data.sources.files import SourceFile, read_files
from megatron_core.data.sources.reading import Oversized, open_buffered
from megatron_core.data.sources.source import Broken, Record, Unreadable
from megatron_core.data.tasks import ordered_map
from megatron_core.errors import MissingExtraError

SUFFIXES = (".warc", ".warc.gz")
_FOUND = 200  # the HTTP status
_HTML = ("text/html", "application/xhtml+xml")
_KEPT = {"record": "WARC-Record-ID", "url": "WARC-Target-URI", "date": "WARC-Date"}
_MANY_TAGS, _DEEPEST = 5000, 500


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page as it was archived, with the metadata of its record."""

    metadata: dict[str, Any]
    charset: str | None
    html: bytes

    def broken(self, reason: str) -> Broken:
        """That there is no text in it."""
        return Broken(**self.metadata["origin"], reason=reason)


class WebPages:
    """A record per HTML page that a server answered with, as plain text without navigation.

    Resiliparse decodes the pages and finds their main text (Bevendorff et al., "Elastic
    ChatNoir", 2018). Of an archive's records only responses with status 200 and HTML count.
    """

    def __init__(self, config: Warc, workers: int) -> None:
        self._config, self._workers = config, workers

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order.

        Raises:
            MissingExtraError: resiliparse is not installed.
            CorpusError: no file matches.
        """
        for package in ("resiliparse", "brotli"):
            if importlib.util.find_spec(package) is None:
                raise MissingExtraError(package, "web")
        pages = read_files(self._config.path, SUFFIXES, self._pages)
        return ordered_map(extract_text, pages, self._workers)

    def _pages(self, file: SourceFile) -> Iterator[Page | Broken]:
        with open_buffered(file.path) as stream:
            for response in read_responses(stream, self._config.max_bytes):
                try:
                    page = self._page(file.name, response)
                except Unreadable as error:
                    yield Broken(file.name, response.number, str(error))
                else:
                    if page is not None:
                        yield page

    def _page(self, name: str, response: ArchivedResponse) -> Page | None:
        limit = self._config.max_bytes
        if response.content is None:
            raise Unreadable(Oversized(response.size).reason(limit))
        status, headers, html = parse_response(response.content, limit)
        if status != _FOUND or headers.get_content_type() not in _HTML:
            return None
        kept = {key: response.header(name) for key, name in _KEPT.items()}
        metadata: dict[str, Any] = {key: value for key, value in kept.items() if value is not None}
        metadata["origin"] = {"file": name, "line": response.number}
        return Page(metadata, headers.get_content_charset(), html)


def extract_text(page: Page | Broken) -> Record | Broken:
    """The main text of ``page``, which may be none; what is broken stays so."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if isinstance(page, Broken):
        return page
    try:
        html = _decoded(page)
        tree = HTMLTree.parse(html)
        # The time to find the main text grows with the square of the depth.
        if html.count("<") > _MANY_TAGS and _is_deep(tree.body):
            return page.broken(f"elements nested deeper than {_DEEPEST}")
        text = extract_plain_text(tree, main_content=True, alt_texts=False)
    except Exception as error:  # whatever the parser makes of what is on the web
        return page.broken(f"no text can be found: {error}")
    return Record(text, page.metadata)


def _is_deep(body: Any) -> bool:
    node, depth = body, 0
    while depth <= _DEEPEST:
        if node.first_element_child is not None:
            node, depth = node.first_element_child, depth + 1
            continue
        while node.next_element_sibling is None:
            if depth <= 1:
                return False
            node, depth = node.parent, depth - 1
        node = node.next_element_sibling
    return True


def _decoded(page: Page) -> str:
    """The page's characters, by what the server says, the page itself, or how it looks."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    if page.charset is not None:
        try:
            return str(bytes_to_str(page.html, page.charset))
        except LookupError:  # no encoding has that name
            pass
    seen = detect_encoding(page.html, from_html_meta=True)
    return str(bytes_to_str(page.html, seen or "utf-8"))
