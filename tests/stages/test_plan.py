"""``reforge plan`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megatron_core.errors import ConfigError
from stages.app import app

TINY = Path(__file__).parents[1] / "tiny.yaml"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_recipe_is_planned() -> None:
    output = run("--params", str(TINY), "--layout", "data=2")
    assert "2 as data=2" in output
    assert "it fits" in output


def test_a_recipe_as_json() -> None:
    made = json.loads(run("--params", str(TINY), "--layout", "data=4,pipeline=2", "--json"))
    assert made["ranks"] == 8
    assert made["job"]["sequence"] == 64
    assert made["job"]["batch"] == 8
    assert made["job"]["grid"] == {"data": 4, "tensor": 1, "context": 1}
    assert made["fits"] is True


def test_overrides_reach_the_plan() -> None:
    changes = ["--set", "pretrain.model.layers=5", "--batch", "16", "--recompute", "full"]
    job = json.loads(run("--params", str(TINY), *changes, "--precision", "bf16", "--json"))["job"]
    assert job["model"]["layers"] == 5
    assert (job["batch"], job["recompute"], job["precision"]) == (16, "full", "bf16")


def test_what_is_tuned_is_planned_beside_it() -> None:
    adapter = "{kind: lora, rank: 4}"
    changes = ["--set", f"finetune.continued.adapter={adapter}"]
    whole, changed = (
        json.loads(run("--params", str(TINY), *more, "--json"))["finetune"]["continued"]
        for more in ([], changes)
    )
    assert whole["frozen_parameters"] == 0 and changed["frozen_parameters"] > 0
    assert changed["frozen_parameters"] == whole["trained_parameters"]
    assert changed["memory"]["optimizer"] == 8 * changed["trained_parameters"]
    assert changed["memory"]["total"] < whole["memory"]["total"]
    shown = run("--params", str(TINY), *changes)
    assert f"{changed['trained_parameters']:,}" in shown


def test_a_model_that_is_taken_over_is_planned_with_what_is_tuned() -> None:
    changes = ["pretrain.start=model", "pretrain.steps=0", "finetune.continued.adapter.kind=lora"]
    made = json.loads(
        run("--params", str(TINY), *(x for one in changes for x in ("--set", one)), "--json")
    )
    assert list(made) == ["finetune"]


def test_a_published_model_is_planned() -> None:
    layout = "data=8,tensor=8,pipeline=35"
    made = json.loads(
        run("--model", "mt-nlg-530b", "--layout", layout, "--hardware", "a100-80gb", "--json")
    )
    assert made["ranks"] == 2240
    assert round(made["parameters"] / 1e9, 1) == 529.6
    assert made["job"]["batch"] == 8 * 8 * 35


def test_own_files_are_read(tmp_path: Path) -> None:
    model = tmp_path / "mine.yaml"
    model.write_text(
        "{layers: 2, hidden: 64, heads: 4, kv_heads: 2, ffn: 96, vocabulary: 256, positions: 32}"
    )
    made = json.loads(run("--model", str(model), "--json"))
    assert made["job"]["model"]["hidden"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "pipeline=3,data=3"], "has 2 problems"),
        (["--model", "gpt-5"], "there is no gpt-5"),
        (["--hardware", "h300"], r"did you mean h\d00\?"),
        (["--precision", "fp8"], "--precision fp8: must be one of fp32, bf16, fp16"),
        (["--recompute", "some"], "must be one of none, selective, full"),
        (["--layout", "tensors=2"], "is no dimension of a layout"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("--params", str(TINY), *arguments)
