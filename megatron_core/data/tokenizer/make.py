"""The tokenizer of a recipe: trained on a sample, or one that exists."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from megatron_core.config import ByteBpe, ExistingTokenizer, TokenizerConfig, WordPiece
from megatron_core.data.documents import read_shards
from megatron_core.data.tokenizer.byte_bpe import train_byte_bpe
from megatron_core.data.tokenizer.existing import adopt
from megatron_core.data.tokenizer.folder import TOKENIZER
from megatron_core.data.tokenizer.report import describe
from megatron_core.data.tokenizer.sample import draw_sample
from megatron_core.data.tokenizer.sentence_piece import train_sentence_piece
from megatron_core.data.tokenizer.tokenizer import Tokenizer
from megatron_core.data.tokenizer.word_piece import train_word_piece
from megatron_core.errors import CorpusError
from megatron_core.files import write_json

logger = logging.getLogger(__name__)


def make_tokenizer(documents: Path, output: Path, config: TokenizerConfig) -> dict[str, Any]:
    """Train on shards in ``documents``, or take what exists; write a folder with ``report.json``.

    The folder is a Hugging Face one, with SentencePiece's ``tokenizer.model`` where there is one.
    It does not depend on the order of shards or the number of threads.

    Returns:
        The report: vocabulary, special tokens, and counts on the sample (:func:`describe`).

    Raises:
        CorpusError: there is no text, or too little for the vocabulary; or the tokenizer that
            exists cannot be used.
    """
    sample = draw_sample(read_shards(documents), int(config.sample_megabytes * 1e6))
    if not sample:
        raise CorpusError(f"{documents} holds no text to train a tokenizer on")
    if isinstance(config, ExistingTokenizer):
        adopt(Path(config.path), output, config.end_of_document)
    elif isinstance(config, ByteBpe):
        train_byte_bpe(sample, config.vocabulary, output)
    elif isinstance(config, WordPiece):
        train_word_piece(sample, config.vocabulary, output)
    else:
        train_sentence_piece(sample, config, output)
    report = {"kind": config.kind, **describe(Tokenizer.load(output), sample)}
    same = report["transformers"]
    if same["identical"] < same["documents"]:
        logger.warning(
            "transformers gives other tokens than sentencepiece for %d of %d documents: what "
            "reads %s beside this project is not exact",
            same["documents"] - same["identical"], same["documents"], TOKENIZER,
        )  # fmt: skip
    write_json(output / "report.json", report)
    return report
