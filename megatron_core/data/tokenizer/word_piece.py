"""WordPiece for encoders."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from megatron_core.data.documents import Document
from megatron_core.data.tokenizer.folder import VOCABULARY, check_size, write_folder
from megatron_core.files import write_text
from megatron_core.progress import track

_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def train_word_piece(sample: Sequence[Document], vocabulary: int, output: Path) -> None:
    """Train cased WordPiece, as for BERT (Devlin et al., 2019), and write the folder.

    At most a quarter of the entries go to single characters, the most frequent ones; a word with
    another one is unknown.

    Raises:
        CorpusError: the text is too little for the vocabulary.
    """
    # The trainer numbers characters within words as its hash table has them, which differs from
    # run to run. Named as special tokens they have their numbers before it begins.
    backend = _backend(models.WordPiece(unk_token=_TOKENS["unk"]))
    letters = _alphabet(backend, sample, vocabulary // 8)
    inner = [f"##{letter}" for letter in letters if not _stands_alone(letter)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*_TOKENS.values(), *inner],
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    texts = (document.text for document in sample)
    backend.train_from_iterator(
        track(texts, "reading the tokenizer's sample", total=len(sample)), trainer
    )
    found = backend.get_vocab(with_added_tokens=True)
    check_size(len(found), vocabulary)
    made = _backend(models.WordPiece(found, unk_token=_TOKENS["unk"]))
    made.add_special_tokens(list(_TOKENS.values()))
    first, last = ((_TOKENS[role], found[_TOKENS[role]]) for role in ("cls", "sep"))
    made.post_processor = processors.BertProcessing(last, first)
    write_folder(made, output, _TOKENS)
    tokens = sorted(found, key=lambda token: found[token])
    write_text(output / VOCABULARY, "".join(f"{token}\n" for token in tokens))


def _backend(model: models.WordPiece) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _alphabet(backend: Backend, sample: Sequence[Document], limit: int) -> list[str]:
    """The ``limit`` most frequent characters of words, in the order of their numbers."""
    counts: Counter[str] = Counter()
    for document in sample:
        counts.update(backend.normalizer.normalize_str(document.text))
    letters = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:limit])


def _stands_alone(letter: str) -> bool:
    """Whether a character is always a word: punctuation, and Chinese ones between spaces."""
    if letter in string.punctuation or unicodedata.category(letter).startswith("P"):
        return True
    return any(first <= ord(letter) <= last for first, last in _CHINESE)


_CHINESE = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF)),
    *((0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
