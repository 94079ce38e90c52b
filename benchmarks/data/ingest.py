"""How fast each kind of source is read and written, beside reading and writing its JSON alone."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.data.corpus import Corpus
from benchmarks.tables import write_table
from megatron_core.config import IngestConfig, LocalExecution
from megatron_core.data.ingestion import ingest_sources
from megatron_core.data.tasks import Tasks

_DOCUMENTS, _PAGES = 40_000, 2_000
_PARAGRAPHS = 20  # of a page


def run() -> None:
    """CPU seconds of a fresh process each, so that a busy machine counts for little."""
    texts = [document.text for document in Corpus(_DOCUMENTS)]
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(Path(folder), texts)
        rows = [_row("(parse and write)", "raw", paths["jsonl"], texts)]
        rows += [
            _row(name, name, path, texts[: _PAGES if name == "warc" else None])
            for name, path in paths.items()
        ]
    write_table(
        "data_ingest",
        "python -m benchmarks.data ingest",
        ["source", "documents", "MB of text", "MB/s", "documents/s", "peak memory, MB"],
        rows,
        "Per second of CPU time, in a fresh process for each row. The first row parses each JSON "
        "line and writes it, and does nothing else. Pages of `warc` are HTML with navigation.",
    )


def measure(name: str, path: str) -> None:
    """Print CPU seconds and peak memory in kB of ingesting ``path``: what a row's process does."""
    before = _seconds()
    with tempfile.TemporaryDirectory() as folder:
        if name == "raw":
            _raw(Path(path), Path(folder) / "out")
        else:
            kind = name.partition(".")[0]
            source = {"kind": kind, "path": path} | (
                {"separator": "\n\n"} if kind == "text" else {}
            )
            config = IngestConfig.model_validate({"sources": {"a": source}})
            one = LocalExecution(workers=1)
            ingest_sources(config, Path(folder), Tasks(Path(folder), one))
        print(_seconds() - before, peak_memory())


def peak_memory() -> int:
    """Most memory of this process so far, in kB; Linux counts the parent's into ru_maxrss."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _row(title: str, name: str, path: Path, texts: list[str]) -> list[str]:
    code = f"from benchmarks.data.ingest import measure; measure({name!r}, {str(path)!r})"
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    seconds, memory = map(float, printed.split())
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    return [
        title, f"{len(texts):,}", f"{megabytes:.0f}", f"{megabytes / seconds:.0f}",
        f"{len(texts) / seconds:,.0f}", f"{memory / 1e3:.0f}",
    ]  # fmt: skip


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _raw(path: Path, output: Path) -> None:
    with path.open("rb") as lines, output.open("wb") as file:
        file.writelines(
            orjson.dumps(orjson.loads(line), option=orjson.OPT_APPEND_NEWLINE) for line in lines
        )


def _write(folder: Path, texts: list[str]) -> dict[str, Path]:
    """The same texts as every kind of source."""
    lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
    contents = {
        "jsonl": lines,
        "jsonl.gz": gzip.compress(lines, 6),
        "jsonl.zst": zstandard.compress(lines),
        "text": "\n\n".join(texts).encode(),
        "warc": b"".join(_archived(text) for text in texts[:_PAGES]),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"x.{'txt' if name == 'text' else name}"
        paths[name].write_bytes(content)
    paths["parquet"] = folder / "x.parquet"
    pq.write_table(pa.table({"text": texts}), paths["parquet"])
    return paths


def _archived(text: str) -> bytes:
    """``text`` as a page, as the response of a server, as a record of an archive."""
    words = text.split(" ")
    step = len(words) // _PARAGRAPHS + 1
    body = "".join(f"<p>{' '.join(words[at : at + step])}</p>" for at in range(0, len(words), step))
    links = "".join(f"<li><a href='/{n}'>Section {n}</a></li>" for n in range(30))
    page = (
        f"<html><head><title>x</title></head><body><nav><ul>{links}</ul></nav><main>{body}</main>"
        "<footer>All rights reserved.</footer></body></html>"
    )
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
    head = f"WARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(answer)}"
    return b"WARC/1.0\r\n" + head.encode() + b"\r\n\r\n" + answer + b"\r\n\r\n"
