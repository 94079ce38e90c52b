"""Near-duplicates: our passes beside datatrove's stages, on one core."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datatrove.data import Document as Text
from datatrove.pipeline.dedup import minhash as peer
from datatrove.utils.text import TextNormConfig
from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer

from benchmarks.data.corpus import Corpus
from benchmarks.tables import write_table
from megatron_core.config import DedupConfig, LocalExecution
from megatron_core.data.dedup import remove_duplicates
from megatron_core.data.dedup.signatures import sign_shard
from megatron_core.data.documents import Document, read_shard, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.data.words import Words

_DOCUMENTS = 10_000
_STOCK_DOCUMENTS = 400  # its tokenizer takes about ten milliseconds a document


class Splitter(WordTokenizer):
    """Our words in the place of datatrove's tokenizer; its own for English is spaCy's."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of ``text``."""
        words = Words.of(text)
        joined = words.joined.tobytes().decode()
        return joined.split(" ") if len(words) > 1 else [joined]

    def sent_tokenize(self, text: str) -> list[str]:
        """The whole text: MinHash asks for words alone."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """That of the whole text."""
        return [(0, len(text))]


# Our words are normalized already.
UNCHANGED = TextNormConfig(
    lowercase=False, norm_whitespace=False, remove_punctuation=False,
    norm_unicode_diacritics=False, norm_numbers=False,
)  # fmt: skip


class DatatroveMinHash:
    """datatrove's four stages with its defaults, in ``folder``; rank n reads shard n."""

    def __init__(self, folder: Path, language: str | WordTokenizer) -> None:
        self._folder, self._language = folder, language
        same = not isinstance(language, str)
        self.config = peer.MinhashConfig(**{"norm_config": UNCHANGED} if same else {})

    def sign(self, shards: Sequence[Callable[[], Iterator[Text]]]) -> None:
        """The first stage."""
        for rank, read in enumerate(shards):
            step = peer.MinhashDedupSignature(
                str(self._folder / "signatures"), self.config, self._language
            )
            step.run(read(), rank, len(shards))

    def keep(self, shards: Sequence[Callable[[], Iterator[Text]]]) -> Iterator[Text]:
        """The other three; yields the documents that stay."""
        signatures, pairs, gone = (
            str(self._folder / name) for name in ("signatures", "pairs", "gone")
        )
        buckets = self.config.num_buckets
        for bucket in range(buckets):
            step = peer.MinhashDedupBuckets(signatures, pairs, config=self.config)
            step.run(None, bucket, buckets)
        peer.MinhashDedupCluster(pairs, gone, self.config).run()
        for rank, read in enumerate(shards):
            yield from peer.MinhashDedupFilter(gone).run(read(), rank, len(shards))


def readers(shards: Sequence[Path], limit: int | None = None) -> list[Callable[[], Iterator[Text]]]:
    """What reads each of our shards as datatrove's documents."""

    def read(shard: Path) -> Iterator[Text]:
        for number, document in enumerate(read_shard(shard)):
            if number == limit:
                return
            yield Text(document.text, document.id)

    return [lambda shard=shard: read(shard) for shard in shards]  # type: ignore[misc]


def write_shards(folder: Path, shards: Sequence[Sequence[Document]]) -> list[Path]:
    """Write each of ``shards`` to a file of ``folder``."""
    paths = [folder / f"{number:05d}.jsonl" for number in range(len(shards))]
    for path, documents in zip(paths, shards, strict=True):
        write_shard(path, documents)
    return paths


def _timed(work: Callable[[], object]) -> float:
    """Seconds of one core: this machine may be busy with other things."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _measure_ours(folder: Path, shards: Sequence[Path]) -> tuple[float, float]:
    """Seconds of the signature pass, and of all passes from it to the shards written."""
    config = DedupConfig()

    def sign() -> None:
        for number in range(len(shards)):
            sign_shard(number, shards, folder / "arrays", config)

    def remove() -> None:
        tasks = Tasks(folder / "tasks", LocalExecution(workers=1))
        remove_duplicates(shards[0].parent, folder / "out", config, tasks)

    sign()  # compiled code is loaded
    return _timed(sign), _timed(remove)


def _measure_peer(
    folder: Path, shards: Sequence[Path], language: str | WordTokenizer, limit: int | None
) -> tuple[float, float]:
    """The same of datatrove's stages, whose last one writes the shards as ours does."""
    stages, texts = DatatroveMinHash(folder, language), readers(shards, limit)
    signed = _timed(lambda: stages.sign(texts))

    def keep() -> None:
        kept = (Document(*_place(text), text.text) for text in stages.keep(texts))
        write_shard(folder / "kept.jsonl", kept)

    return signed, signed + _timed(keep)


def _place(text: Text) -> tuple[str, int]:
    source, _, row = text.id.rpartition("/")
    return source, int(row)


def run() -> None:
    """Rates of ours and of datatrove's, with its own tokenizer where spaCy is installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = list(Corpus(_DOCUMENTS))
        shards = write_shards(folder / "in", [documents[n::4] for n in range(4)])
        size = sum(shard.stat().st_size for shard in shards)
        ours = [_DOCUMENTS / s for s in _measure_ours(folder / "ours", shards)]
        peers = {"datatrove, our words": (Splitter(), None)}
        note = "spaCy, which datatrove's English tokenizer needs, is not installed."
        if importlib.util.find_spec("spacy"):
            peers = {"datatrove": (Languages.english, _STOCK_DOCUMENTS // 4), **peers}
            note = f"datatrove with its own tokenizer: the first {_STOCK_DOCUMENTS} documents."
        rows = [["ours", f"{ours[0]:,.0f}", "", f"{ours[1]:,.0f}", ""]]
        for label, (language, limit) in peers.items():
            times = _measure_peer(folder / label, shards, language, limit)
            count = limit * 4 if limit else _DOCUMENTS
            signed, whole = (count / seconds for seconds in times)
            rows.append(
                [
                    label, f"{signed:,.0f}", f"{ours[0] / signed:.1f}",
                    f"{whole:,.0f}", f"{ours[1] / whole:.1f}",
                ]
            )  # fmt: skip
    write_table(
        "data_dedup",
        "python -m benchmarks.data dedup",
        ["", "signatures, documents/s", "ours is faster by", "all of it, documents/s",
         "ours is faster by"],
        rows,
        f"{_DOCUMENTS:,} synthetic documents, {size / 1e6:.0f} MB; seconds of one core, reading "
        f"and writing JSON lines included, ours with verified similarities. {note}",
    )  # fmt: skip
