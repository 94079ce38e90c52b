"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_core.config.corpus.sources import PlainText
from megatron_core.data.sources.files import SourceFile, read_files
from megatron_core.data.sources.reading import PACKED, Oversized, open_buffered, read_pieces
from megatron_core.data.sources.source import Broken, Record

SUFFIXES = tuple(f"{name}{packed}" for name in (".txt", ".text", ".md") for packed in PACKED)


class TextFiles:
    """A record per UTF-8 file, or per piece between separators, that is not blank.

    Lines end with a newline in a record, whatever they end with in the file.
    """

    def __init__(self, config: PlainText) -> None:
        self._config = config

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order; a record's line is the one it starts in.

        Raises:
            CorpusError: no file matches.
        """
        return read_files(self._config.path, SUFFIXES, self._records)

    def _records(self, file: SourceFile) -> Iterator[Record | Broken]:
        limit = self._config.max_bytes
        separator = (self._config.separator or "").encode()
        with open_buffered(file.path) as stream:
            for line, piece in read_pieces(stream, separator, limit):
                if isinstance(piece, Oversized):
                    yield Broken(file.name, line, piece.reason(limit))
                elif not piece.isspace() and piece:
                    yield _record(file.name, line, piece)


def _record(name: str, line: int, piece: bytes) -> Record | Broken:
    try:
        text = piece.decode()
    except UnicodeDecodeError as error:
        line += piece.count(b"\n", 0, error.start)
        return Broken(name, line, f"no valid UTF-8 ({error.reason})")
    return Record(text, {"origin": {"file": name, "line": line}})
