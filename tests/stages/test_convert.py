"""``reforge convert`` by hand: a model from any format to any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_core.checkpoint import StoredWeights, find_checkpoints, verify_checkpoint
from megatron_core.config import ConvertConfig
from megatron_core.conversion import HuggingFaceModel, export_model
from stages.app import main
from tests.models import random_decoder, small_config, small_tokenizer, stored_weights


def convert(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["reforge", "convert", *map(str, arguments)])
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    return int(code), " ".join(capsys.readouterr().err.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = random_decoder(small_config())
    tokenizer = small_tokenizer(tmp_path / "tokens")
    export_model(
        stored_weights(model), model.config, tokenizer, tmp_path / "hf", ConvertConfig(),
        checkpoint="root",
    )  # fmt: skip
    return tmp_path


def test_a_model_goes_round_through_every_format(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for source, target, form in (
        ("hf", "ours", "reforge"),
        ("ours", "mcore", "megatron_core"),
        ("mcore", "again", "reforge"),
        ("again", "back", "hugging_face"),
    ):
        code, said = convert(
            monkeypatch, capsys, "--from", folder / source, "--to", folder / target,
            "--format", form,
        )  # fmt: skip
        assert code == 0, said
        assert "every tensor is bitwise the same" in said
    roots = []
    for name in ("ours", "again"):
        (path,) = find_checkpoints(folder / name / "checkpoints")
        roots.append(verify_checkpoint(path).root)
        assert (folder / name / "tokenizer/tokenizer.json").exists()
    assert roots[0] == roots[1]
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (folder / "back" / file).read_bytes() == (folder / "hf" / file).read_bytes()
    certificate = json.loads((folder / "ours/certificate.json").read_text())
    assert certificate["from"] == "hugging_face"
    assert certificate["checkpoint"] == roots[0]
    assert certificate["max_logit_difference"] < 1e-4


def test_a_cast_is_kept_by_the_way_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    half = ("--dtype", "bfloat16", "--no-logits", "--format", "hugging_face")
    assert (
        convert(monkeypatch, capsys, "--from", folder / "hf", "--to", folder / "b", *half)[0] == 0
    )
    assert convert(monkeypatch, capsys, "--from", folder / "b", "--to", folder / "c")[0] == 0
    (path,) = find_checkpoints(folder / "c/checkpoints")
    # Without --dtype what is stored stays what it is.
    assert (
        convert(monkeypatch, capsys, "--from", folder / "b", "--to", folder / "d", *half[2:])[0]
        == 0
    )
    for name in ("b", "d"):
        assert HuggingFaceModel.open(folder / name).dtypes == {torch.bfloat16}
    rounded = HuggingFaceModel.open(folder / "hf").weights["embedding.weight"].bfloat16().float()
    assert torch.equal(StoredWeights(path)["embedding.weight"], rounded)
    certificate = json.loads((folder / "b/certificate.json").read_text())
    assert certificate["max_logit_difference"] is None


def test_what_cannot_be_done_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    there, to = folder / "hf", folder / "new"
    monkeypatch.setitem(sys.modules, "gguf", None)  # as if it were not installed
    for arguments, message in (
        (("--from", there), "both are needed"),
        (("--from", there, "--to", to, "--format", "onnx"), "must be one of reforge, hugging"),
        (("--from", there, "--to", to, "--dtype", "int8"), "must be one of float32, bfloat16"),
        (("--from", there, "--to", to, "--format", "gguf"), "reforge-llm[gguf]"),
        (("--from", there, "--to", there), "is there already"),
        (("--from", there, "--to", to, "--dtype", "float16"), "checkpoints are float32"),
        (("--dtype", "float16"), "go with --from DIR"),
        (("--from", folder / "none", "--to", to), "holds no model"),
        (("--from", folder / "tokens", "--to", to), "holds no model"),
    ):
        code, said = convert(monkeypatch, capsys, *arguments)
        assert code != 0
        assert message in said
    weights = there / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, said = convert(monkeypatch, capsys, "--from", there, "--to", to)
    assert code == 1
    assert "model.safetensors is truncated" in said
    assert {path.name for path in folder.iterdir()} == {"hf", "tokens", "tokens-documents"}
