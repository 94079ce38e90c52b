"""``reforge generate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_core.errors import ConfigError, ReforgeError
from stages.generate import generate
from tests.models import random_decoder, small_config, small_tokenizer, write_checkpoint


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_tokenizer(tmp_path / "artifacts/tokenizer")
    write_checkpoint(tmp_path / "artifacts/pretrain/checkpoints", random_decoder(small_config()))
    return tmp_path


def test_a_terminal_and_a_file_get_the_same_text(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(["the heart", "a liver"], tokens=9, seed=3)
    shown = capsys.readouterr().out
    (project / "prompts.txt").write_text("the heart\na liver\n")
    generate(source=Path("prompts.txt"), output=Path("out.jsonl"), tokens=9, seed=3)
    lines = [json.loads(line) for line in (project / "out.jsonl").read_text().splitlines()]
    assert shown == "\n".join(f"{line['prompt']}{line['text']}\n" for line in lines)
    assert capsys.readouterr().out == ""
    generate(source=Path("prompts.txt"), output=Path("again.jsonl"), tokens=9, seed=3)
    assert (project / "again.jsonl").read_text() == (project / "out.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give prompts, or a file of them"),
        ({"prompts": ["a"], "source": Path("x")}, "give prompts, or a file of them"),
        ({"prompts": ["a"], "top_p": 0.0}, "--top-p 0: must be above 0"),
        ({"prompts": ["a"], "precision": "fp8"}, "--precision fp8: must be one of fp32, bf16"),
        ({"prompts": ["a"], "layout": "pipeline=2"}, "data and tensor ranks only"),
        ({"prompts": ["a"], "layout": "tensor=2"}, "--shards 2 cuts it otherwise"),
    ],
)
def test_wrong_options(project: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(**options)  # type: ignore[arg-type]


def test_nothing_is_written_when_it_cannot_be_done(project: Path) -> None:
    with pytest.raises(ReforgeError, match="prompt 2 has 1001 tokens; the model has 64 positions"):
        generate(["a", "Ö" * 500], output=Path("out.jsonl"))
    with pytest.raises(ReforgeError, match="holds no model"):
        generate(["a"], model=Path("artifacts"), output=Path("out.jsonl"))
    assert not (project / "out.jsonl").exists()
