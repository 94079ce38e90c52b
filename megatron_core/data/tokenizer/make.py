"""The tokenizer of a recipe: trained on a sample, or one that exists."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron_core.config import ByteBpe, ExistingTokenizer, TokenizerConfig, WordPiece
from megatron_core.data.documents import Document, read_shards
from megatron_core.data.tokenizer.existing import adopt
from megatron_core.data.tokenizer.folder import TOKENIZER, VOCABULARY, write_folder
from megatron_core.data.tokenizer.report import describe
from megatron_core.data.tokenizer.sample import draw_sample
from megatron_core.data.tokenizer.sentence_piece import train_sentence_piece
from megatron_core.data.tokenizer.tokenizer import Tokenizer
from megatron_core.errors import CorpusError
from megatron_core.files import write_json, write_text
from megatron_core.progress import track

logger = logging.getLogger(__name__)

END_OF_DOCUMENT = "<|endoftext|>"
ENCODER_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


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
        _train(_byte_bpe(), _byte_bpe_trainer(config.vocabulary), sample, config.vocabulary, output)
    elif isinstance(config, WordPiece):
        backend, trainer = _word_piece(), _word_piece_trainer(config.vocabulary)
        _train(backend, trainer, sample, config.vocabulary, output)
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


def _byte_bpe() -> Backend:
    """Byte pair encoding (Sennrich et al., "Neural Machine Translation of Rare Words with Subword
    Units", 2016) on bytes, with the word splitting of GPT-2."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_bpe_trainer(vocabulary: int) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # A pair seen once is no evidence of a unit.
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _word_piece() -> Backend:
    """WordPiece as in BERT (Devlin et al., 2019), cased."""
    backend = Backend(models.WordPiece(unk_token=ENCODER_TOKENS["unk"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _word_piece_trainer(vocabulary: int) -> trainers.WordPieceTrainer:
    return trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=list(ENCODER_TOKENS.values()),
        limit_alphabet=vocabulary // 4,
        show_progress=False,
    )


def _train(
    backend: Backend, trainer: Any, sample: Sequence[Document], vocabulary: int, output: Path
) -> None:
    texts = (document.text for document in sample)
    backend.train_from_iterator(
        track(texts, "reading the tokenizer's sample", total=len(sample)), trainer
    )
    if (size := backend.get_vocab_size(with_added_tokens=True)) != vocabulary:
        raise CorpusError(
            f"the sampled text yields {size} tokens, not {vocabulary}: lower "
            f"tokenizer.vocabulary to {size} or less (and pretrain.model.vocabulary with it), "
            "or give more text"
        )
    if isinstance(trainer, trainers.BpeTrainer):
        roles = dict.fromkeys(("bos", "eos", "pad"), END_OF_DOCUMENT)
    else:
        roles = ENCODER_TOKENS
        first, last = (roles["cls"], 2), (roles["sep"], 3)
        backend.post_processor = processors.BertProcessing(last, first)
        tokens = sorted(backend.get_vocab().items(), key=lambda entry: entry[1])
        write_text(output / VOCABULARY, "".join(f"{token}\n" for token, _ in tokens))
    write_folder(backend, output, roles)
