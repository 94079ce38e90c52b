"""Datasets of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator

from megatron_core.config.corpus.sources import HubDataset
from megatron_core.data.sources.source import Broken, Record, RecordReader, Unreadable, named
from megatron_core.errors import CorpusError


class HubRows:
    """A record per row of a dataset, streamed; the text stands in one column."""

    def __init__(self, config: HubDataset) -> None:
        self._config = config
        self._reader = RecordReader(config)

    def __iter__(self) -> Iterator[Record | Broken]:
        """Stream the split; ``line`` of a broken row counts from 1.

        Raises:
            CorpusError: the dataset, its configuration or its split cannot be loaded (also when
                there is no network), or it lacks the column.
        """
        from datasets import load_dataset  # seconds to import; only this source needs it

        wanted = self._config
        try:
            rows = load_dataset(
                wanted.name,
                wanted.config,
                split=wanted.split,
                revision=wanted.revision,
                streaming=True,
            )
            for line, row in enumerate(rows, start=1):
                if wanted.text not in row:
                    raise CorpusError(
                        f"the dataset {wanted.name} has no column `{wanted.text}`; "
                        f"its columns are: {named(row)}"
                    )
                try:
                    yield self._reader.read(row, None)
                except Unreadable as error:
                    yield Broken(wanted.name.rpartition("/")[2], line, str(error))
        except CorpusError:
            raise
        except Exception as error:  # the library raises what its many backends raise
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CorpusError(
                f"the dataset {wanted.name} (configuration {wanted.config or 'default'}, split "
                f"{wanted.split}, revision {wanted.revision}) cannot be loaded: {first}; check "
                "the name and the network, or use a local copy as jsonl or parquet"
            ) from error
