"""Wikitext becomes prose."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

pytest.importorskip("mwparserfromhell", reason="needs the extra `texts`")

from megatron_core.data.sources.wikipedia import read_articles
from megatron_core.data.sources.wikitext import clean_wikitext
from megatron_core.errors import CorpusError

ARTICLE = """\
{{Infobox person | name = X | spouse = {{marriage|Y|1900}} }}
[[File:X.jpg|thumb|A [[caption]] with ''style'']]
'''X''' ({{IPAc-en|ɛ|k|s}}; born 1870) was a [[Physics|physicist]].<ref name="a">A ref</ref>
He walked {{convert|5|km|mi}}&nbsp;a day<ref name="a" /> and<!-- a comment
over lines --> wrote {{lang|de|Worte}}, H<sub>2</sub>O and 10<sup>3</sup>.{{cn|date=May 2015}}

{| class="wikitable"
! Head
|-
| Cell
|}
==Life==
{{main|Life of X}}
* One [http://example.org example]
** Two http://example.org
===Empty===
==Nothing==
<gallery>
File:Y.jpg|Y
</gallery>
== See also ==
* [[Z]]
=== Deeper ===
Gone.
==Work==
Text &ndash; [[de:X]][[Category:People]]end.
==References==
{{reflist}}
==External links==
* [http://example.org Gone]
"""

PROSE = """\
X (born 1870) was a physicist. He walked 5 km a day and wrote Worte, H2O and 10^3.

Life

One example
Two

Work

Text – end."""


def test_an_article_reads_as_prose() -> None:
    assert clean_wikitext(ARTICLE) == PROSE


@pytest.mark.parametrize(
    ("source", "prose"),
    [
        ("A line\nwrapped in two.\n\nA paragraph.", "A line wrapped in two.\n\nA paragraph."),
        ("<poem>\nRoses\nViolets\n</poem>", "Roses\nViolets"),
        ("One<br/>two", "One\ntwo"),
        ("{{quote|Said.|Who}}", "Said."),
        ("{{quote|text=Said. And x=y.}}", "Said. And x=y."),
        ("{{frac|1|2}} of {{convert|3|to|5|mi|km}}", "1/2 of 3 to 5 miles"),
        ("In {{c.|1500}} {{circa}} {{BCE}}", "In c. 1500 c. BCE"),
        ("{|\n| never closed\n", ""),
        ("Only (listen) (, ; ) [[:Category:Shown]]", "Only Category:Shown"),
        ("{{unknown|text}}", ""),
        ("", ""),
    ],
)
def test_small_pieces(source: str, prose: str) -> None:
    assert clean_wikitext(source) == prose


def page(title: str, namespace: int, body: str, redirect: bool = False) -> str:
    moved = '<redirect title="x"/>' if redirect else ""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns>{moved}"
        f"<revision><text>{body}</text></revision></page>"
    )


def test_articles_of_a_dump(tmp_path: Path) -> None:
    pages = [
        page("A", 0, "one"), page("B", 0, "#REDIRECT", redirect=True), page("P:C", 4, "x"),
        page("D", 0, "two &lt;b&gt;"),
    ]  # fmt: skip
    xml = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">' + "".join(pages)
    dump = tmp_path / "dump.bz2"
    dump.write_bytes(bz2.compress(f"{xml}</mediawiki>".encode()))
    assert list(read_articles(dump)) == [("A", "one"), ("D", "two <b>")]
    for damaged in (bz2.compress(xml.encode()), b"no bzip2", dump.read_bytes()[:40]):
        dump.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"dump\.bz2 cannot be read"):
            list(read_articles(dump))
