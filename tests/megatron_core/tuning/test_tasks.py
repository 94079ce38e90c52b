"""Each task: a model that tells the truth scores full marks, and one that is trained runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor

from kernels.cross_entropy import IGNORED
from megatron_core.checkpoint import find_checkpoints, read_checkpoint
from megatron_core.config import BatchSizes, Checkpoints, ModelConfig, RateSchedule, TaskConfig
from megatron_core.errors import CorpusError, ReforgeError
from megatron_core.exchange import ModelFolder
from megatron_core.model import HeadSpec, LanguageModel, TaskModel, initialize, parameter_shards
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import open_mesh
from megatron_core.trainer.assemble import fine_tuning, tell_start
from megatron_core.trainer.examples import ExampleObjective, tell
from megatron_core.tuning import Place, Task, open_task, prompt_of, summarize
from megatron_core.tuning.task import total
from tests.recipes import small_model
from tests.tokenizers import KINDS, made

DECODER = small_model(vocabulary=400, positions=96)
ENCODER = small_model(
    vocabulary=400, positions=96, kind="encoder", token_types=2, position_embedding="learned"
)
SOFT = {"kind": "soft_prompt", "tokens": 3}
LORA = {"kind": "lora", "rank": 2}

TEXTS = [("fed bad", "yes"), ("cab gab had", "no"), ("dab ebb fad bead", "maybe")] * 8


def _lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _texts(folder: Path) -> dict[str, Any]:
    rows = [
        {"text": f"{text} {n}", "other": "cafe" * (n % 3 + 1), "label": label, "score": n % 5}
        for n, (text, label) in enumerate(TEXTS)
    ]
    return {"train": _lines(folder / "texts.jsonl", rows), "heldout": 0.4, "second": "other"}


def _columns(folder: Path) -> dict[str, Any]:
    lines = []
    for n in range(16):
        lines += [f"fed\tB-{'XY'[n % 2]}", "bad\tO", f"cab\tI-{'XY'[n % 2]}", "dab\tO", ""]
    (folder / "words.tsv").write_text("\n".join(lines))
    return {"train": str(folder / "words.tsv"), "heldout": 0.4}


def _annotated(folder: Path) -> dict[str, Any]:
    notes = folder / "notes"
    notes.mkdir()
    for n in range(16):
        (notes / f"{n}.txt").write_text("fed had bad and cab.")
        related = "R1\tTreats Arg1:T1 Arg2:T2\n"
        (notes / f"{n}.ann").write_text(
            f"T1\tDrug 0 3\tfed\nT2\tReason 8 11\tbad\nT3\tReason 16 19\tcab\n{related}"
        )
    return {"train": str(notes), "heldout": 0.4}


def _asked(folder: Path) -> dict[str, Any]:
    rows = []
    for n in range(20):
        context = f"fed bad {'cab ' * (n % 7)}gab dab bead."
        answers = [{"text": "gab dab", "answer_start": context.index("gab")}] if n % 4 else []
        rows.append({"id": str(n), "context": context, "question": "cab", "answers": answers})
    return {"train": _lines(folder / "questions.jsonl", rows), "heldout": 0.4}


def _said(folder: Path) -> dict[str, Any]:
    rows = [{"prompt": f"fed {n}", "response": "bad " * (n % 3 + 1)} for n in range(20)]
    return {"train": _lines(folder / "said.jsonl", rows), "heldout": 0.4}


def _preferred(folder: Path) -> dict[str, Any]:
    rows = [{"prompt": f"fed {n}", "chosen": "bad cab", "rejected": "had"} for n in range(20)]
    return {"train": _lines(folder / "preferred.jsonl", rows), "heldout": 0.4}


FILES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "classification": lambda folder: {"kind": "texts", **_texts(folder)},
    "similarity": _texts,
    "entities": _columns,
    "relations": _annotated,
    "answers": _asked,
    "instructions": _said,
    "preferences": _preferred,
}
CASES = [
    *((kind, ENCODER, None) for kind in FILES if kind not in ("instructions", "preferences")),
    *((kind, DECODER, None) for kind in FILES),
    *((kind, DECODER, SOFT) for kind in FILES),
    ("entities", ENCODER, SOFT), ("answers", ENCODER, SOFT), ("relations", ENCODER, LORA),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By the kind of the model."""
    return {
        "decoder": made(tmp_path_factory.mktemp("bytes"), KINDS["byte_bpe"]),
        "encoder": made(tmp_path_factory.mktemp("pieces"), KINDS["wordpiece"]),
    }


def config_of(kind: str, adapter: dict[str, Any] | None, folder: Path) -> Any:
    extra = {"stride": 8, "question_length": 16} if kind == "answers" else {}
    settings = {
        "kind": kind, "examples": FILES[kind](folder), "steps": 2, "sequence_length": 64,
        "batch": BatchSizes(sequences=4, microbatch=2), "schedule": RateSchedule(warmup_steps=1),
        "checkpoints": Checkpoints(every=2), "trackers": [], "adapter": adapter, **extra,
    }  # fmt: skip
    return TypeAdapter(TaskConfig).validate_python(settings)


def truth(kind: str, task: Task, prompt: int) -> list[Tensor]:
    """What a model that knows the answers would tell of each example."""
    test, classes = task.test, len(task.description.get("classes", ()))
    if kind == "similarity":
        return [value.float().reshape(1, 1) for value in test.targets[0]]
    if kind in ("classification", "relations"):
        return [F.one_hot(label, classes).float()[None] for label in test.targets[0]]
    if kind == "entities":
        padded = F.pad(test.targets, (prompt, 0), value=IGNORED)
        return [F.one_hot(row.clamp(min=0), classes).float()[None] for row in padded]
    if kind == "answers":
        length = test.tokens.shape[1] + prompt
        return [
            torch.stack([F.one_hot(place, length).float() for place in ends], dim=-1)[None]
            for ends in test.targets.T
        ]
    raise AssertionError(kind)


@pytest.mark.parametrize(("kind", "model", "adapter"), CASES)
def test_the_truth_scores_full_marks(
    kind: str, model: ModelConfig, adapter: dict[str, Any] | None, tokenizers: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    config = config_of(kind, adapter, tmp_path)
    task = open_task(config, Place(tokenizers[model.kind], tmp_path, model))
    prompt = prompt_of(config.adapter)
    assert task.test.tokens.shape[1] == 64 - prompt
    if kind in ("instructions", "preferences"):
        _check_likelihoods(task, kind)
        return
    scores = task.score(truth(kind, task, prompt))
    assert scores[task.metric]["value"] == pytest.approx(1.0, abs=1e-6)
    wrong = task.score([one.flip(-1) for one in truth(kind, task, prompt)])
    assert kind == "similarity" or wrong[task.metric]["value"] < 1.0


def _check_likelihoods(task: Task, kind: str) -> None:
    if kind == "preferences":
        assert task.test.together == 2
        told = [torch.tensor([-1.0, -2.0]) for _ in range(len(task.test))]
        assert task.score(told)["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert task.score([one.flip(0) for one in told])["accuracy"]["value"] == 0.0
        return
    counted = (task.test.targets != IGNORED).float()
    assert counted.any(dim=1).all()
    scores = task.score(list((counted * 0.5)[:, None]))
    assert scores["token_probability"]["value"] == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize(("kind", "model", "adapter"), CASES)
def test_it_trains_and_is_summarized(
    kind: str, model: ModelConfig, adapter: dict[str, Any] | None, tokenizers: dict[str, Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    config = config_of(kind, adapter, tmp_path)
    task = open_task(config, Place(tokenizers[model.kind], tmp_path, model))
    start, prompt = _start(model), prompt_of(config.adapter)
    with open_mesh(Layout(), "cpu", 1) as mesh:
        train, test, before = task.train, task.test, {}
        if task.make_start is not None:
            told = tell_start(start, task.make_start, config, test, mesh)
            before = task.score(told)
            if kind == "preferences":
                _check_reference(model, task, torch.cat(told))
            if task.refer is not None:
                known = tell_start(start, task.make_start, config, train, mesh)
                train, test = task.refer(train, known), task.refer(test, told)
        train, test = train.behind(prompt), test.behind(prompt)
        training = fine_tuning(
            kind, config, config.adapter, start, task.make,
            ExampleObjective(train, test, seed=1), task.description, task.inputs, tmp_path, mesh,
        )  # fmt: skip
        if kind == "preferences" and not prompt:
            # Nothing is preferred yet to what it was: the loss of a pair is log 2.
            heldout = training.engine.heldout(training.objective.heldout(2, 1))
            assert heldout.mean == pytest.approx(math.log(2), abs=1e-5)
        training.train()
        results = summarize(task, config, [task.score(tell(training.engine, test))], before)
    # What the checkpoint says of the model is enough to build it again.
    said = task.description
    assert ModelConfig.model_validate(said["config"]) == model
    if said["kind"] == "task":
        again = TaskModel(ModelConfig.model_validate(said["config"]), HeadSpec(**said["head"]))
        names = {shard.place.tensor for shard in parameter_shards(again)}
        (last,) = find_checkpoints(training.run.checkpoints)
        trained = set(read_checkpoint(last).tensors)
        assert trained == names if adapter is None else {"head.weight", "head.bias"} < trained
    model_scores = results["scores"]["model"]
    assert math.isfinite(model_scores[task.metric]["value"])
    assert set(results["scores"]) > {"model"}
    assert json.loads(json.dumps(results)) == results


@torch.no_grad()
def _check_reference(model: ModelConfig, task: Task, told: Tensor) -> None:
    """The first model's log-probabilities, whatever padding makes room for a soft prompt."""
    whole = LanguageModel(model)
    initialize(whole, model, seed=2)
    tokens = task.test.targets[1:].T.long()
    likely = whole(task.test.tokens).log_softmax(dim=-1)
    each = likely.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
    expected = each.where(tokens != IGNORED, 0.0).sum(dim=-1)
    torch.testing.assert_close(told, expected, rtol=1e-5, atol=1e-4)


def _start(model: ModelConfig) -> ModelFolder:
    whole = LanguageModel(model)
    initialize(whole, model, seed=2)
    weights = {
        shard.place.tensor: shard.parameter.detach()
        for shard in parameter_shards(whole)
        if shard.place.tensor not in whole.tied
    }
    return ModelFolder(Path("nowhere"), model, weights, None, None)  # type: ignore[arg-type]


def test_scores_of_several_seeds_have_an_interval_over_them(
    tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    """Student's: of 0.2, 0.4 and 0.6 with two degrees of freedom, 4.303 · 0.2 / √3."""
    config = config_of("classification", None, tmp_path)
    task = open_task(config, Place(tokenizers["encoder"], tmp_path, ENCODER))
    scores = [{"macro_f1": {"value": value}} for value in (0.2, 0.4, 0.6)]
    found = summarize(task, config, scores, {})
    model = found["scores"]["model"]["macro_f1"]
    assert model["value"] == pytest.approx(0.4)
    assert model["high"] - 0.4 == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)
    assert found["seeds"]["3"] == {"macro_f1": {"value": 0.6}}


def test_counts_of_reading_and_of_both_sides_are_added() -> None:
    found = total({"skipped": 2}, {"cut": 1, "windowed": 3}, {"cut": 4})
    assert list(found.items()) == [("cut", 5), ("skipped", 2), ("windowed", 3)]


def test_a_tokenizer_of_another_model_is_refused(
    tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of("classification", None, tmp_path)
    with pytest.raises(ReforgeError, match=r"has \d+ tokens, the model to fine-tune 64"):
        open_task(config, Place(tokenizers["decoder"], tmp_path, small_model()))


def test_the_first_sentence_is_of_what_fills_the_form(
    tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of("instructions", None, tmp_path)
    examples = config.examples.model_copy(
        update={"prompt": "Read this.\n{prompt}. Then go on.", "response": "prompt"}
    )
    config = config.model_copy(update={"generate": 4, "examples": examples})
    task = open_task(config, Place(tokenizers["decoder"], tmp_path, DECODER))
    assert task.baselines()["first_sentence"]["rouge_l"]["value"] == 1.0


def test_missing_examples_are_named(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    config = config_of("entities", None, tmp_path)
    (tmp_path / "words.tsv").unlink()
    with pytest.raises(CorpusError, match=r"words\.tsv"):
        open_task(config, Place(tokenizers["encoder"], tmp_path, ENCODER))


def test_a_group_is_on_one_side(tokenizers: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"text": "fed bad", "label": "ab"[n % 2], "patient": f"p{n // 4}"} for n in range(40)]
    files = {
        "kind": "texts", "train": _lines(tmp_path / "grouped.jsonl", rows), "group": "patient",
        "heldout": 0.5,
    }  # fmt: skip
    config = TypeAdapter(TaskConfig).validate_python({"kind": "classification", "examples": files})
    task = open_task(config, Place(tokenizers["encoder"], tmp_path, ENCODER))
    assert task.details["train"] % 4 == task.details["test"] % 4 == 0
    assert task.details["train"] + task.details["test"] == 40
