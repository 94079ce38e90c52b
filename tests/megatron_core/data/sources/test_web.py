"""Web archives: which pages count, how they are decoded, and files cut or written over."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from megatron_core.config.corpus.sources import Warc
from megatron_core.data.sources import Record, open_source
from megatron_core.data.sources.source import Broken

pytest.importorskip("resiliparse", reason="the extra `web` is not installed")

PARAGRAPH = "Asthma is a chronic disease of the airways, and it is treated with inhalers. " * 3
PAGE = f"""<!doctype html><html><head><title>Asthma</title><script>var x = 1;</script></head><body>
<nav><ul><li><a href="/a">Section</a></li><li><a href="/b">Other</a></li></ul></nav>
<main><article><h1>Asthma — שלום 😀</h1><p>{PARAGRAPH}</p></article></main>
<footer>Copyright. All rights reserved.</footer></body></html>"""
HTML = "Content-Type: text/html; charset=utf-8"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(kind: str, content: bytes, number: int = 0, **headers: str) -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{number}>",
        "WARC-Date": "2024-01-02T03:04:05Z",
        "Content-Type": "application/http; msgtype=response",
        "Content-Length": str(len(content)),
    } | {key.replace("_", "-"): value for key, value in headers.items()}
    head = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
    return f"WARC/1.0\r\n{head}\r\n".encode() + content + b"\r\n\r\n"


def response(
    body: bytes | str = PAGE, *headers: str, status: str = "200 OK", number: int = 0
) -> bytes:
    body = body.encode() if isinstance(body, str) else body
    lines = "\r\n".join([f"HTTP/1.1 {status}", *(headers or [HTML]), "", ""])
    url = f"https://example.org/ü/{number}"
    return record("response", lines.encode() + body, number, WARC_Target_URI=url)


def read(*records: bytes, workers: int = 1, **config: Any) -> list[Any]:
    Path("x.warc").write_bytes(b"".join(records))
    return list(open_source(Warc(kind="warc", path="x.warc", **config), workers))


def text(*records: bytes) -> Any:
    (found,) = read(*records)
    return found.text if isinstance(found, Record) else found


def test_the_main_text_of_what_was_found() -> None:
    found = read(
        record("warcinfo", b"software: test\r\n", Content_Type="application/warc-fields"),
        record("request", b"GET / HTTP/1.1\r\n\r\n"),
        response(number=1),
        response(status="404 Not Found"),
        response("{}", "Content-Type: application/json"),
        record("response", b"220 ready", Content_Type="text/dns"),
        response(PAGE.replace("Asthma —", "Second"), number=2),
    )
    first, second = found
    assert first.text.startswith("Asthma — שלום 😀")
    assert PARAGRAPH.strip() in first.text
    for noise in ("Section", "Copyright", "var x"):
        assert noise not in first.text
    assert first.metadata == {
        "record": "<urn:uuid:1>", "url": "https://example.org/ü/1",
        "date": "2024-01-02T03:04:05Z", "origin": {"file": "x.warc", "line": 3},
    }  # fmt: skip
    assert second.metadata["origin"]["line"] == 7


def test_many_processes_keep_the_order() -> None:
    records = [response(PAGE.replace("Asthma —", f"Page {n}"), number=n) for n in range(40)]
    records[20] = response("cut", "Content-Encoding: gzip", HTML, number=20)
    assert read(*records, workers=2) == read(*records)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Type: text/html"], PAGE.encode()),  # as it looks
        (["Content-Type: text/html; charset=nonsense"], PAGE.encode()),
        (["Content-Type: text/html; charset=utf-16"], PAGE.encode("utf-16")),
        ([HTML, "Transfer-Encoding: chunked"], b"5;x=1\r\n%s\r\nfff\r\n%s\r\n0\r\n\r\n"),
        ([HTML, "Content-Encoding: gzip"], gzip.compress(PAGE.encode())),
        ([HTML, "Content-Encoding: deflate"], zlib.compress(PAGE.encode())),
        ([HTML, "Content-Encoding: deflate"], zlib.compress(PAGE.encode(), wbits=-15)),
        # A crawler may decode the body and leave the header.
        ([HTML, "Content-Encoding: gzip", "Transfer-Encoding: chunked"], PAGE.encode()),
        ([HTML, "Content-Encoding: br"], PAGE.encode()),
    ],
)
def test_encodings(headers: list[str], body: bytes) -> None:
    if b"%s" in body:
        body = body % (PAGE.encode()[:5], PAGE.encode()[5:])
    assert "Asthma — שלום 😀" in text(response(body, *headers))


def test_brotli() -> None:
    brotli = pytest.importorskip("brotli")
    page = response(brotli.compress(PAGE.encode()), HTML, "Content-Encoding: br")
    assert "Asthma — שלום 😀" in text(page)


def test_latin_1_from_the_page_itself() -> None:
    page = PAGE.replace("<head>", '<head><meta charset="iso-8859-1">').replace("שלום 😀", "Fièvre")
    body = page.replace("—", "-").encode("latin-1")
    assert "Fièvre" in text(response(body, "Content-Type: text/html"))


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
def test_every_truncation_is_counted_and_what_is_before_it_kept(name: str) -> None:
    records = [record("warcinfo", b"x"), response("<p>one", number=1), response("<p>two", number=2)]
    whole, ends = b"", [0]
    for one in records:
        whole += gzip.compress(one) if name.endswith("gz") else one
        ends.append(len(whole))
    for length in range(1, len(whole)):
        Path(name).write_bytes(whole[:length])
        *pages, last = [*open_source(Warc(kind="warc", path=name)), None]
        if pages and isinstance(pages[-1], Broken):
            last = pages.pop()
        texts = [page.text for page in pages]  # type: ignore[union-attr]
        assert texts == ["one", "two"][: len(texts)]
        tail = 0 if name.endswith("gz") else 4  # an archive's last blank lines are no loss
        assert len(texts) >= sum(length >= end - tail for end in ends[2:])
        assert (last is None) == any(end - tail <= length <= end for end in ends)


def test_what_is_no_archive_is_broken() -> None:
    page = response("<p>one")
    for rest in (
        b"garbage\r\n",
        b"WARC/1.0\r\nContent-Length: -1\r\n\r\n",
        b"\0" * 100,
        b"x" * 9**7,
    ):
        first, broken = read(page, rest)
        assert first.text == "one"
        assert str(broken).startswith("x.warc: unreadable after 1 records: ")
    (broken,) = read(record("response", b"nonsense"))
    assert str(broken) == "x.warc:1: no HTTP response"
    (broken,) = read(record("response", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200))
    assert str(broken).startswith("x.warc:1: headers cannot be read")


def test_large_pages_are_set_aside_also_when_they_are_compressed() -> None:
    bomb = response(gzip.compress(bytes(40_000_000), 1), HTML, "Content-Encoding: gzip")
    tracemalloc.start()
    large, small, bomb_found = read(
        response("<p>" + "x" * 1_000_000), response("<p>fine"), bomb, max_bytes=500_000
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert "more than max_bytes = 500,000" in large.reason
    assert small.text == "fine"
    assert bomb_found.reason == "more than max_bytes = 500,000 bytes once decompressed"


def test_deep_pages_do_not_hold_the_stage_up() -> None:
    deep = response("<div>" * 100_000 + "deep")
    closed = response("<p><b>" * 3000 + "<div>text</div>" * 3000)
    broken, found = read(deep, closed)
    assert broken.reason == "elements nested deeper than 500"
    assert isinstance(found, Record)
