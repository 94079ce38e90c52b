"""Tokenizing: megabytes of text per second of one core, beside the encoders alone and datatrove."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from benchmarks.data.corpus import Corpus
from benchmarks.tables import write_table
from megatron_core.config import ByteBpe, LocalExecution, SentencePieceBpe, TokenizeConfig
from megatron_core.data.documents import list_shards, read_shard, write_shard
from megatron_core.data.tasks import Tasks
from megatron_core.data.tokenization import tokenize_documents
from megatron_core.data.tokenization.lines import Batch, read_batches
from megatron_core.data.tokenizer import Encoder, Tokenizer, make_tokenizer, open_encoder

VOCABULARY = 32_000
DOCUMENTS = 40_000
SHARDS = 4
SLOW = 2_000  # documents for what is slow


def run() -> None:
    """Encode one corpus with one vocabulary every way there is."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, documents in (("all", DOCUMENTS), ("few", SLOW), ("none", 8)):
            write_corpus(root / name, documents)
        byte_bpe, pieces = root / "byte_bpe", root / "sentencepiece_bpe"
        train = root / "all/train"
        byte_bpe.mkdir()
        pieces.mkdir()
        make_tokenizer(train, byte_bpe, ByteBpe(vocabulary=VOCABULARY, sample_megabytes=20))
        kind = SentencePieceBpe(
            kind="sentencepiece_bpe", vocabulary=VOCABULARY, sample_megabytes=20
        )
        make_tokenizer(train, pieces, kind)
        rates = {
            **encoders(root, byte_bpe, pieces),
            **peers(root, byte_bpe),
            **stages(root, byte_bpe, pieces),
        }
    start = rates.pop("start")
    slowest = rates["tokenizers"]
    rows = [[name, f"{rate:.3g}", f"{rate / slowest:.3g}"] for name, rate in rates.items()]
    write_table(
        "data_tokenize",
        "python -m benchmarks.data tokenize",
        ["what", "MB/s", "× tokenizers"],
        rows,
        f"{VOCABULARY:,} entries, {DOCUMENTS:,} synthetic documents in {SHARDS} shards (the first "
        f"{SLOW:,} for what is slower), 10^6 bytes of text per second of processor time, one "
        "thread. `first` has an empty cache of words, `again` has seen the text. Rates of `reforge "
        "tokenize` are of the library's function from JSON lines to joined datasets, all checks "
        f"included, but for {start:.1f} s that it takes to open the tokenizer and the encoder, "
        "once for each 256 MB.",
    )


def write_corpus(root: Path, documents: int) -> None:
    """A corpus of ``documents`` in both splits; held out are a few."""
    made = list(Corpus(documents))
    for shard in range(SHARDS):
        write_shard(root / f"train/{shard:05d}.jsonl", made[shard::SHARDS])
    write_shard(root / "heldout/00000.jsonl", made[:2])


def encoders(root: Path, byte_bpe: Path, pieces: Path) -> dict[str, float]:
    """The encoders alone, on texts in memory."""
    few = [batch.texts for batch in batches(root / "few")]
    every = [batch.texts for batch in batches(root / "all")]
    rates = {
        "tokenizers": rate(few, Tokenizer.load(byte_bpe).reference),
        "sentencepiece BPE": rate(few, Tokenizer.load(pieces).reference),
    }
    if find_spec("gigatoken"):
        for name, folder in (("gigatoken", byte_bpe), ("gigatoken, sentencepiece BPE", pieces)):
            encoder = open_encoder(Tokenizer.load(folder), "gigatoken")
            encoder.encode(["warm up"])
            rates[f"{name}, first"] = rate(every, encoder)
            rates[f"{name}, again"] = rate(every, encoder)
    return rates


def peers(root: Path, byte_bpe: Path) -> dict[str, float]:
    """What others make of JSON lines: gigatoken's own reader, datatrove's stage."""
    rates = {}
    if find_spec("gigatoken"):
        from gigatoken import JsonlFileSource
        from gigatoken.gigatoken_rs import load_hf_json

        encoder = load_hf_json((byte_bpe / "tokenizer.json").read_bytes())
        for turn in ("first", "again"):
            seconds = timed(
                lambda: [
                    encoder.encode_files(JsonlFileSource([shard]), parallel=False)
                    for shard in list_shards(root / "all/train")
                ]
            )
            rates[f"gigatoken from JSON lines, {turn}"] = size(root / "all") / seconds
    from datatrove.data import Document
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronDocumentTokenizer

    stage = MegatronDocumentTokenizer(
        output_folder=str(root / "datatrove"), tokenizer_name_or_path=f"{byte_bpe}/tokenizer.json",
        eos_token="<|endoftext|>",
    )  # fmt: skip
    documents = [
        Document(text=document.text, id=document.id)
        for shard in list_shards(root / "few/train")
        for document in read_shard(shard)
    ]
    rates["datatrove, MegatronDocumentTokenizer"] = size(root / "few") / timed(
        lambda: stage.run(iter(documents), rank=0, world_size=1)
    )
    return rates


def stages(root: Path, byte_bpe: Path, pieces: Path) -> dict[str, float]:
    """``reforge tokenize``'s library function, and the seconds it takes to start."""

    def seconds(corpus: str, tokenizer: Path, encoder: str) -> float:
        with tempfile.TemporaryDirectory(dir=root) as output:
            tasks = Tasks(Path(output) / ".tasks", LocalExecution(workers=1))
            config = TokenizeConfig(encoder=encoder)
            return timed(
                lambda: tokenize_documents(root / corpus, tokenizer, Path(output), config, tasks)
            )

    rates: dict[str, float] = {}
    for name, tokenizer in (("byte BPE", byte_bpe), ("sentencepiece BPE", pieces)):
        start = min(seconds("none", tokenizer, "auto") for _ in range(2))
        whole = min(seconds("all", tokenizer, "auto") for _ in range(2))
        rates.setdefault("start", start)
        rates[f"reforge tokenize, {name}"] = size(root / "all") / (whole - start)
        slow = seconds("few", tokenizer, "reference") - seconds("none", tokenizer, "reference")
        rates[f"reforge tokenize, {name}, encoder: reference"] = size(root / "few") / slow
    return rates


def batches(corpus: Path) -> Iterator[Batch]:
    """The documents to train on, as the stage reads them."""
    return (batch for shard in list_shards(corpus / "train") for batch in read_batches(shard))


def size(corpus: Path) -> float:
    """10^6 bytes of text."""
    return sum(sum(len(text.encode()) for text in batch.texts) for batch in batches(corpus)) / 1e6


def rate(texts: list[list[str]], encoder: Encoder) -> float:
    """10^6 bytes of text that ``encoder`` encodes per second."""
    megabytes = sum(len(text.encode()) for some in texts for text in some) / 1e6
    return megabytes / timed(lambda: [encoder.encode(some) for some in texts])


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time that ``work`` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start
