"""Token streams cut into the windows a language model trains on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_core.data.datasets.spans import DocumentSpan, split_at_documents
from megatron_core.data.indexed import IndexedDataset
from megatron_core.errors import CorpusError

_SUFFIX = "_text_document"


def open_streams(folder: Path) -> dict[str, IndexedDataset]:
    """The indexed datasets in ``folder`` by source, in the order of the names."""
    prefixes = sorted(folder.glob(f"*{_SUFFIX}.idx"))
    if not prefixes:
        raise CorpusError(f"{folder} has no indexed datasets: run `reforge tokenize`")
    return {
        path.stem.removesuffix(_SUFFIX): IndexedDataset(path.with_suffix("")) for path in prefixes
    }


class TokenWindows:
    """Each source's documents end to end, cut every ``length`` tokens.

    A window also holds the first ``shared`` tokens of the next: with one of them every token but
    a stream's first is predicted once, the last of a window from all those before it.
    """

    def __init__(
        self, streams: Mapping[str, IndexedDataset], length: int, *, shared: int = 1
    ) -> None:
        self.streams, self.length, self.shared = streams, length, shared
        self.counts = {
            name: max(0, len(stream.tokens) - shared) // length for name, stream in streams.items()
        }

    def spans(self, source: str, item: int) -> list[DocumentSpan]:
        """What window ``item`` of ``source`` is made of, ``length + shared`` tokens."""
        start = item * self.length
        stop = start + self.length + self.shared
        return split_at_documents(self.streams[source], source, start, stop)
