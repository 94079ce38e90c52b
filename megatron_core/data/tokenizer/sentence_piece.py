"""SentencePiece models: how they are trained, and the same tokenizer as a Hugging Face folder."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Backend

from megatron_core.config import SentencePieceBpe, SentencePieceUnigram
from megatron_core.data.documents import Document
from megatron_core.data.tokenizer.folder import MODEL, write_folder
from megatron_core.errors import CorpusError

_SPACE = "\u2581"  # stands for a space within pieces
_STEP = 1 / 16  # of a unigram model's scores
_THREADS = 8  # the sums of the training are cut by their number, so it is fixed
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6


def train_sentence_piece(
    sample: Sequence[Document], config: SentencePieceBpe | SentencePieceUnigram, output: Path
) -> None:
    """Train by SentencePiece (Kudo and Richardson, 2018) and write both forms of the tokenizer.

    Text is not normalized, no space is put before it, and characters without entries become
    bytes, so what is decoded is what was encoded, U+2581 apart.

    Raises:
        CorpusError: the text is too little for the vocabulary.
    """
    from sentencepiece import SentencePieceTrainer

    kind = "bpe" if isinstance(config, SentencePieceBpe) else "unigram"
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(line for d in sample for line in d.text.split("\n") if line),
            model_writer=model,
            model_type=kind,
            vocab_size=config.vocabulary,
            character_coverage=config.character_coverage,
            byte_fallback=True,
            # Then the name of a byte or a control piece, spelled out, has pieces of its own.
            required_chars="".join(sorted(set("</>0123456789ABCDEFxsunk"))),
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=1 << 30,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise CorpusError(_too_little(str(error), config.vocabulary)) from error
    content = _rounded(model.getvalue()) if kind == "unigram" else model.getvalue()
    (output / MODEL).write_bytes(content)
    write_converted(content, output)


def write_converted(content: bytes, output: Path, end_of_document: str | None = None) -> None:
    """Write the SentencePiece model ``content`` as a Hugging Face folder.

    Raises:
        CorpusError: ``content`` is no such model, or of a kind that cannot be converted.
    """
    model = parse_model(content)
    backend = Backend(_bpe(model) if model.trainer_spec.model_type == 2 else _unigram(model))
    spec = model.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [_replace("^ +| +$", ""), _replace(" {2,}", " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    decoding: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(decoding)
    pieces = [piece.piece for piece in model.pieces]
    special = [p.piece for p in model.pieces if p.type in (_UNKNOWN, _CONTROL)]
    backend.add_special_tokens([AddedToken(p, special=True, normalized=False) for p in special])
    words = [p.piece for p in model.pieces if p.type == _USER]
    backend.add_tokens([AddedToken(p, special=False, normalized=False) for p in words])
    roles = {
        role: pieces[number]
        for role, number in (
            ("bos", model.trainer_spec.bos_id), ("eos", model.trainer_spec.eos_id),
            ("unk", model.trainer_spec.unk_id), ("pad", model.trainer_spec.pad_id),
        )
        if 0 <= number < len(pieces)
    }  # fmt: skip
    roles |= {"eos": end_of_document} if end_of_document else {}
    write_folder(backend, output, roles)


def parse_model(content: bytes) -> Any:
    """The protocol buffer of a SentencePiece model: data alone, no code.

    Raises:
        CorpusError: it is none.
    """
    from sentencepiece import sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)
    except Exception as error:  # protobuf's DecodeError, whichever backend it has
        raise CorpusError(f"no readable SentencePiece model ({error})") from error
    if model.trainer_spec.model_type not in (1, 2) or not model.pieces:
        raise CorpusError("a SentencePiece model must be of type bpe or unigram")
    return model


def _bpe(model: Any) -> models.BPE:
    """Merges in the order of the scores; all pairs that make a piece are its merges."""
    vocabulary = {piece.piece: number for number, piece in enumerate(model.pieces)}
    merges: list[tuple[str, str]] = []
    normal = [p for p in model.pieces if p.type == _NORMAL]
    for piece in sorted(normal, key=lambda p: (-p.score, vocabulary[p.piece])):
        text = piece.piece
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return models.BPE(
        vocabulary, merges, unk_token=_unknown(model), byte_fallback=_falls_back(model),
        fuse_unk=True,
    )  # fmt: skip


def _unigram(model: Any) -> models.Unigram:
    """Only normal pieces are found in texts, which the tokenizers library says by their score."""
    worst = min(piece.score for piece in model.pieces if piece.type == _NORMAL) - 1000.0
    scores = [(p.piece, p.score if p.type in (_NORMAL, _USER) else worst) for p in model.pieces]
    unknown = model.trainer_spec.unk_id
    return models.Unigram(scores, unknown, byte_fallback=_falls_back(model))


def _unknown(model: Any) -> str:
    return str(model.pieces[model.trainer_spec.unk_id].piece)


def _falls_back(model: Any) -> bool:
    return any(piece.type == _BYTE for piece in model.pieces)


def _rounded(content: bytes) -> bytes:
    """The unigram model with scores that are multiples of 1/16.

    SentencePiece adds scores in single precision, the tokenizers library in double. Sums of such
    scores are exact in both up to a million, about 500,000 characters, so the two agree.
    """
    model = parse_model(content)
    for piece in model.pieces:
        piece.score = round(piece.score / _STEP) * _STEP
    return bytes(model.SerializeToString(deterministic=True))


def _too_little(message: str, vocabulary: int) -> str:
    found = re.search(r"<= (\d+)", message) or re.search(r"vocab_size\D+(\d+)", message)
    limit = f" to {found[1]} or less" if found else ""
    return (
        f"the sampled text does not yield {vocabulary} tokens: lower tokenizer.vocabulary{limit} "
        f"(and pretrain.model.vocabulary with it), or give more text; SentencePiece says: {message}"
    )


def _replace(pattern: str, content: str) -> Any:
    return normalizers.Replace(Regex(pattern), content)
