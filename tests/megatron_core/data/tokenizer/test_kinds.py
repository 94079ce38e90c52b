"""Every kind of tokenizer against transformers, SentencePiece and itself trained elsewhere."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_core.data.tokenizer import Tokenizer
from tests.tokenizers import HARD, KINDS, corpus, fuzz, made, write_corpus

TEXTS = [*HARD, *fuzz(300), *(document.text for document in corpus(30))]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind, in a folder of its name."""
    return made(tmp_path_factory.mktemp(request.param), KINDS[request.param])


@pytest.fixture
def kind(folder: Path) -> str:
    return str(json.loads((folder / "report.json").read_text())["kind"])


def test_transformers_gives_the_same_ids(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    assert len(theirs) == tokenizer.vocabulary_size == 400
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
        assert not {*ids} & {*tokenizer.special_tokens.values()} - {tokenizer.unknown_token}
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_special_tokens_are_known_by_role(folder: Path, kind: str) -> None:
    tokenizer = Tokenizer.load(folder)
    roles = {
        role: getattr(tokenizer, f"{role}_token")
        for role in ("unknown", "class", "separator", "padding", "mask")
    }
    expected, end, special = {
        "byte_bpe": ((None, None, None, 0, None), 0, ["<|endoftext|>"]),
        "sentencepiece_bpe": ((0, None, None, None, None), 2, ["<unk>", "<s>", "</s>"]),
        "sentencepiece_unigram": ((0, None, None, None, None), 2, ["<unk>", "<s>", "</s>"]),
        "wordpiece": ((1, 2, 3, 0, 4), 3, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
    }[kind]
    assert tuple(roles.values()) == expected
    assert tokenizer.end_of_document == end
    assert tokenizer.special_tokens == {token: number for number, token in enumerate(special)}


def test_special_tokens_are_parsed_when_asked(folder: Path) -> None:
    text_alone, parsed = Tokenizer.load(folder), Tokenizer.load(folder, parse_special_tokens=True)
    token, number = next(reversed(text_alone.special_tokens.items()))
    assert number in parsed.encode(f"a {token} b")
    assert number not in text_alone.encode(f"a {token} b")


def test_text_round_trips(folder: Path, kind: str) -> None:
    tokenizer = Tokenizer.load(folder)
    if kind == "wordpiece":  # white space is lost, and [UNK] stands for what is unknown
        assert tokenizer.decode(tokenizer.encode(corpus()[0].text)) == corpus()[0].text
        assert tokenizer.encode("漢") == [tokenizer.unknown_token]
        return
    assert [text for text in TEXTS if tokenizer.decode(tokenizer.encode(text)) != text] == []


def test_the_library_of_the_model_gives_the_same_ids(folder: Path, kind: str) -> None:
    from sentencepiece import SentencePieceProcessor

    tokenizer = Tokenizer.load(folder)
    if not kind.startswith("sentencepiece"):
        assert not (folder / "tokenizer.model").exists()
        assert tokenizer.reference.name == "tokenizers"
        return
    processor = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert tokenizer.reference.name == "sentencepiece"
    assert processor.encode(TEXTS, num_threads=1) == [tokenizer.encode(text) for text in TEXTS]


def test_same_bytes_on_one_core_from_other_shards(folder: Path, kind: str, tmp_path: Path) -> None:
    documents = corpus()
    random.Random(2).shuffle(documents)
    write_corpus(tmp_path / "train", documents, 5)
    (tmp_path / "out").mkdir()
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pathlib import Path\n"
        "from megatron_core.data.tokenizer import make_tokenizer\n"
        "from tests.tokenizers import KINDS\n"
        f"make_tokenizer(Path('train'), Path('out'), KINDS[{kind!r}])"
    )
    root = str(Path(__file__).parents[4])
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert {path.name for path in folder.iterdir()} == {
        p.name for p in (tmp_path / "out").iterdir()
    }
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_report_counts_what_is_unknown(folder: Path, kind: str) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert report["transformers"] == {"documents": 300, "identical": 300}
    assert report["sample"]["unknown_share"] == 0
    assert report["sample"]["exact_round_trips"] == 300
    if kind == "wordpiece":
        lines = (folder / "vocab.txt").read_text().splitlines()
        assert lines[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        assert len(lines) == 400
