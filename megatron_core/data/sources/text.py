"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_core.config.corpus.sources import PlainText
from megatron_core.data.sources.files import matching_files
from megatron_core.data.sources.source import Broken, Record
from megatron_core.errors import CorpusError

SUFFIXES = (".txt", ".text", ".md")


class TextFiles:
    """A record per UTF-8 file, or per piece between separators that is not blank."""

    def __init__(self, config: PlainText) -> None:
        self._config = config

    def __iter__(self) -> Iterator[Record | Broken]:
        """Read every file in order.

        Raises:
            CorpusError: no file matches or one cannot be read.
        """
        separator = self._config.separator
        for path in matching_files(self._config.path, SUFFIXES):
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                yield Broken(str(path), None, f"no valid UTF-8 at byte {error.start}")
                continue
            except OSError as error:
                raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
            for piece in text.split(separator) if separator else [text]:
                if piece.strip():
                    yield Record(piece)
