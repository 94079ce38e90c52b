"""Byte-level byte pair encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from megatron_core.data.documents import Document
from megatron_core.data.tokenizer.folder import check_size, write_folder
from megatron_core.progress import track

_END_OF_DOCUMENT = "<|endoftext|>"


def train_byte_bpe(sample: Sequence[Document], vocabulary: int, output: Path) -> None:
    """Train byte pair encoding on bytes, with the word splitting of GPT-2, and write the folder.

    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016.

    Raises:
        CorpusError: the text is too little for the vocabulary.
    """
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # A pair seen once is no evidence of a unit.
        special_tokens=[_END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (document.text for document in sample)
    backend.train_from_iterator(
        track(texts, "reading the tokenizer's sample", total=len(sample)), trainer
    )
    check_size(backend.get_vocab_size(with_added_tokens=True), vocabulary)
    write_folder(backend, output, dict.fromkeys(("bos", "eos", "pad"), _END_OF_DOCUMENT))
