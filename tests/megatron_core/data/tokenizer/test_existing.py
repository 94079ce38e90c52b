"""Tokenizers that exist: what is copied, what is not, and what they encode to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from megatron_core.config import ExistingTokenizer
from megatron_core.data.tokenizer import Tokenizer, make_tokenizer
from megatron_core.errors import CorpusError
from tests.tokenizers import HARD, KINDS, corpus, fuzz, made, write_corpus


def adopted(root: Path, source: Path, end: str | None = None) -> Tokenizer:
    """The tokenizer ``source`` taken over below ``root``."""
    (root / "taken").mkdir()
    config = ExistingTokenizer(kind="existing", path=str(source), end_of_document=end)
    make_tokenizer(write_corpus(root / "documents", corpus(20), 1), root / "taken", config)
    return Tokenizer.load(root / "taken")


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_a_folder_is_taken_without_its_code(tmp_path: Path, kind: str) -> None:
    source = made(tmp_path / "made", KINDS[kind])
    config = json.loads((source / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", None]}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    for name in ("tokenization_evil.py", "pytorch_model.bin", "tokenizer.pkl"):
        (source / name).write_bytes(b"raise SystemExit")
    taken = adopted(tmp_path, source)
    texts = [*HARD, *fuzz(50)]
    assert taken.encode_batch(texts) == Tokenizer.load(source).encode_batch(texts)
    names = {path.name for path in (tmp_path / "taken").iterdir()}
    assert names <= {"tokenizer.json", "tokenizer_config.json", "report.json", "vocab.txt"}
    assert "auto_map" not in (tmp_path / "taken/tokenizer_config.json").read_text()
    report = json.loads((tmp_path / "taken/report.json").read_text())
    assert report["kind"] == "existing"
    assert str(tmp_path) not in json.dumps(report)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("normalized", [True, False])
def test_a_sentencepiece_file_is_taken(tmp_path: Path, kind: str, normalized: bool) -> None:
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    rule = {} if normalized else {"normalization_rule_name": "identity", "add_dummy_prefix": False}
    SentencePieceTrainer.train(
        sentence_iterator=(document.text for document in corpus()), model_writer=model,
        model_type=kind, vocab_size=400, byte_fallback=True, minloglevel=2, **rule,
    )  # fmt: skip
    path = tmp_path / "some.model"
    path.write_bytes(model.getvalue())
    taken = adopted(tmp_path, path)
    texts = [text for text in [*HARD, *fuzz(50)] if "<" not in text]
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    assert taken.encode_batch(texts) == processor.encode(texts, num_threads=1)
    assert taken.encode_batch(texts) == taken.encode_in_transformers(texts)
    assert (tmp_path / "taken/tokenizer.model").read_bytes() == model.getvalue()
    assert taken.end_of_document == 2


def test_the_recipe_names_what_ends_documents(tmp_path: Path) -> None:
    source = made(tmp_path / "made", KINDS["wordpiece"])
    assert adopted(tmp_path, source, end="[MASK]").end_of_document == 4


def test_settings_for_other_uses_are_left_out(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend

    source = made(tmp_path / "made", KINDS["byte_bpe"])
    expected = Tokenizer.load(source).encode_batch(HARD)
    backend = Backend.from_file(str(source / "tokenizer.json"))
    backend.enable_truncation(7)
    backend.enable_padding(length=9)
    backend.save(str(source / "tokenizer.json"))
    assert adopted(tmp_path, source).encode_batch(HARD) == expected


def test_numbers_that_are_left_out_count(tmp_path: Path) -> None:
    source = made(tmp_path / "made", KINDS["byte_bpe"])
    content = json.loads((source / "tokenizer.json").read_text())
    token = {**content["added_tokens"][0], "id": 1000, "content": "<last>"}
    content["added_tokens"].append(token)
    (source / "tokenizer.json").write_text(json.dumps(content))
    loaded = Tokenizer.load(source, parse_special_tokens=True)
    if loaded.encode("<last>") == [1000]:  # Some releases of the library number it anew.
        assert loaded.vocabulary_size == 1001


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "neither a folder"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "no readable tokenizer"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            "no token that ends a sequence: name one of its tokens with tokenizer.end_of_document",
        ),
    ],
)
def test_names_what_is_wrong(tmp_path: Path, damage, problem: str) -> None:  # type: ignore[no-untyped-def]
    source = made(tmp_path / "made", KINDS["byte_bpe"])
    damage(source)
    with pytest.raises(CorpusError, match=problem):
        adopted(tmp_path, source)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "some.model").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(CorpusError, match=r"some.model: .*SentencePiece model"):
        adopted(tmp_path, tmp_path / "some.model")
    (tmp_path / "taken").rmdir()
    with pytest.raises(CorpusError, match="no token <none>"):
        adopted(tmp_path, made(tmp_path / "made", KINDS["byte_bpe"]), end="<none>")
