"""lm-eval on a decoder, as it is and exported, against log-likelihoods worked out by hand."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate

from megatron_core.config import ConvertConfig, EvaluateConfig
from megatron_core.conversion import export_model
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.catalogue import load_tasks
from megatron_core.evaluation.exported import ExportedModel
from megatron_core.evaluation.harness import HarnessResult, run_harness
from megatron_core.evaluation.native import NativeModel, open_service
from megatron_core.evaluation.scores import compare
from megatron_core.evaluation.tasks import Passage, TaskSet, make_questions
from megatron_core.inference import StoredModel
from megatron_core.model import LanguageModel
from megatron_core.parallel.layout import Layout
from megatron_core.parallel.mesh import Mesh, open_mesh
from tests.models import (
    SENTENCE,
    documents,
    random_decoder,
    small_config,
    small_tokenizer,
    stored_weights,
    write_checkpoint,
)
from tests.ranks import run_ranks

CONTEXT = 24
CONFIG = EvaluateConfig(
    threads=1, questions=20, tasks=["organs", "completion", "last_word"], include="tasks"
)
PASSAGES = {
    # The first takes three windows; the second is not ASCII and shorter than one.
    "books": [Passage("books/0", (SENTENCE.format(5, "liver", 7) * 2)[:-3])],
    "notes": [Passage("notes/4", "Ödeme  des\nHerzens."), Passage("notes/2", "a finding")],
}
ORGANS = """
task: organs
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
num_fewshot: 1
fewshot_split: test
doc_to_text: "{{text}}"
doc_to_target: answer
doc_to_choice: [heart, liver, lung]
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
COMPLETION = """
task: completion
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["e", "\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match}, {metric: bleu}]
"""
LAST_WORD = """
task: last_word
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{text}}"
doc_to_target: " heart"
metric_list: [{metric: perplexity}, {metric: acc}]
"""


def write_named_tasks(folder: Path) -> Path:
    """Local tasks of three kinds, as a recipe would bring them."""
    rows = [{"text": SENTENCE.format(n, "liver", n)[:40], "answer": n % 3} for n in range(12)]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("organs", ORGANS), ("completion", COMPLETION), ("last_word", LAST_WORD)):
        (folder / f"{name}.yaml").write_text(text.replace("ROWS", str(folder / "rows.jsonl")))
    return folder


class Setting:
    """One random decoder as a checkpoint and as an export, and what lm-eval finds for both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer_folder = small_tokenizer(folder / "tokenizer")
        self.tokenizer = Tokenizer.load(self.tokenizer_folder)
        self.decoder = random_decoder(small_config())
        write_checkpoint(folder / "checkpoints", self.decoder)
        export_model(
            stored_weights(self.decoder), self.decoder.config, self.tokenizer_folder,
            folder / "model", ConvertConfig(), checkpoint="root",
        )  # fmt: skip
        self.config = CONFIG.model_copy(
            update={"include": str(write_named_tasks(folder / "tasks"))}
        )

    def native(self, **changes: object) -> HarnessResult:
        stored = StoredModel.find(self.folder / "checkpoints")
        mesh = Mesh(Layout(), 0, torch.device("cpu"))
        settings: dict[str, object] = {"slots": 3, "batch_tokens": None} | changes
        service = open_service(mesh, stored.load(mesh), self.tokenizer_folder, stored, **settings)  # type: ignore[arg-type]
        return self.run(
            NativeModel(
                service, self.tokenizer, first=self.tokenizer.end_of_document, context=CONTEXT
            )
        )

    def exported(self) -> HarnessResult:
        return self.run(ExportedModel(self.folder / "model", context=CONTEXT))

    def run(self, model: object) -> HarnessResult:
        level = logging.getLogger("lm_eval").level
        found = run_harness(model, tasks(), load_tasks(self.config, context=CONTEXT))  # type: ignore[arg-type]
        assert logging.getLogger("lm_eval").level == level
        return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="module")
def native(setting: Setting) -> HarnessResult:
    return setting.native()


@pytest.fixture(scope="module")
def exported(setting: Setting) -> HarnessResult:
    return setting.exported()


@pytest.fixture(scope="module")
def scored(
    setting: Setting, native: HarnessResult
) -> tuple[LanguageModel, Tokenizer, HarnessResult]:
    return random_decoder(small_config()).double(), setting.tokenizer, native


def tasks() -> TaskSet:
    return TaskSet(PASSAGES, make_questions(documents("hpo", range(30)), CONFIG))


def log_probabilities(decoder: LanguageModel, tokens: list[int]) -> np.ndarray:
    """Of each token after the first, given all before it, in float64."""
    with torch.no_grad():
        logits = decoder(torch.tensor([tokens[:-1]]))[0].numpy()
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(tokens) - 1), tokens[1:]]
    return chosen - np.log(np.exp(logits).sum(axis=1))


def passage_log_likelihood(decoder: LanguageModel, tokens: list[int], end: int) -> float:
    """Each token is predicted once, in windows of CONTEXT predictions.

    A window starts after the token before it; the last is as long as the others, so it begins
    with tokens that are seen again and not counted.
    """
    stream, total = [end, *tokens], 0.0
    for start in range(0, len(tokens), CONTEXT):
        stop = min(start + CONTEXT, len(tokens))
        window = stream[max(0, stop - CONTEXT) : stop + 1]
        total += log_probabilities(decoder, window)[-(stop - start) :].sum()
    return float(total)


def test_passages(scored: tuple[LanguageModel, Tokenizer, HarnessResult]) -> None:
    decoder, tokenizer, result = scored
    length = len(tokenizer.encode(PASSAGES["books"][0].text))
    assert length > 2 * CONTEXT and length % CONTEXT > 1  # the last window is not whole
    for source, passages in PASSAGES.items():
        expected = [
            passage_log_likelihood(decoder, tokenizer.encode(p.text), tokenizer.end_of_document)
            for p in passages
        ]
        assert result.log_likelihoods[source] == pytest.approx(expected, rel=1e-5)
        size = sum(len(p.text.encode("utf-8")) for p in passages)
        words = sum(len(p.text.split()) for p in passages)
        found = result.perplexity[source]
        assert found["bits_per_byte"] == pytest.approx(
            -sum(expected) / size / math.log(2), rel=1e-5
        )
        assert found["byte_perplexity"] == pytest.approx(math.exp(-sum(expected) / size), rel=1e-5)
        assert math.log(found["word_perplexity"]) == pytest.approx(-sum(expected) / words, rel=1e-5)
        assert result.tokens[source] == [tokenizer.encode(p.text) for p in passages]


def test_questions(scored: tuple[LanguageModel, Tokenizer, HarnessResult]) -> None:
    decoder, tokenizer, result = scored
    right, normalized = [], []
    for question in tasks().questions:
        scores = []
        prompt = tokenizer.encode(question.prompt)
        for choice in question.choices:
            answer = tokenizer.encode(" " + choice)
            tokens = (prompt + answer)[-CONTEXT - 1 :]  # what does not fit is cut on the left
            scores.append(log_probabilities(decoder, tokens)[-len(answer) :].sum())
        by_length = [s / len(c) for s, c in zip(scores, question.choices, strict=True)]
        right.append(max(range(4), key=scores.__getitem__) == question.answer)
        normalized.append(max(range(4), key=by_length.__getitem__) == question.answer)
    assert 0 < sum(right) < len(right) == 20
    assert result.questions == {"acc": sum(right) / 20, "acc_norm": sum(normalized) / 20}


def test_native_and_exported_score_the_same_to_the_last_bit(
    native: HarnessResult, exported: HarnessResult
) -> None:
    """Every log-likelihood, every metric of ours and of lm-eval's tasks, every generation."""
    assert native == exported
    assert compare(native, exported).identical
    assert compare(native, exported).log_likelihood == 0
    assert set(native.named) == {"organs", "completion", "last_word"}
    assert native.named["organs"]["acc"]["documents"] == 12


def test_rows_and_order_change_no_score(setting: Setting, native: HarnessResult) -> None:
    """In rows of other shapes the same bits, on this machine, or at least the same numbers."""
    together = setting.native(batch_tokens=64, slots=5)
    difference = compare(native, together)
    assert difference.log_likelihood < 1e-6
    assert together.questions == native.questions
    reversed_tasks = TaskSet(
        {source: passages[::-1] for source, passages in list(PASSAGES.items())[::-1]},
        tasks().questions[::-1],
    )
    stored = StoredModel.find(setting.folder / "checkpoints")
    mesh = Mesh(Layout(), 0, torch.device("cpu"))
    for batch_tokens, expected in ((None, native), (64, together)):
        service = open_service(
            mesh, stored.load(mesh), setting.tokenizer_folder, stored, slots=5,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        model = NativeModel(service, setting.tokenizer, first=0, context=CONTEXT)
        none = {"tasks": {}, "groups": {}, "group_map": {}}
        found = run_harness(model, reversed_tasks, none)
        for source in PASSAGES:
            assert found.log_likelihoods[source][::-1] == expected.log_likelihoods[source]
        assert found.questions == expected.questions


def test_intervals_and_roots_of_named_tasks(setting: Setting, native: HarnessResult) -> None:
    accuracy = native.named["organs"]["acc"]
    assert accuracy["kind"] == "exact"
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    perplexity = native.named["last_word"]["perplexity"]
    assert perplexity["kind"] == "bootstrap"
    assert perplexity["low"] < perplexity["value"] < perplexity["high"]
    assert native.chance == {"organs": pytest.approx(1 / 3)}
    assert native.data["completion"]["documents"] == native.data["organs"]["documents"]
    assert native.data["completion"]["requests"] != native.data["organs"]["requests"]
    path = setting.folder / "tasks" / "rows.jsonl"
    before = path.read_text()
    path.write_text(before.replace("liver", "lungs", 1))
    try:
        assert setting.native().data["organs"]["documents"] != native.data["organs"]["documents"]
    finally:
        path.write_text(before)


def test_it_is_a_model_of_lm_eval(setting: Setting, native: HarnessResult) -> None:
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="reforge",
        model_args=f"checkpoint={setting.folder / 'checkpoints'},"
        f"tokenizer={setting.tokenizer_folder},max_length={CONTEXT}",
        tasks=["last_word"],
        task_manager=TaskManager(include_path=setting.config.include, include_defaults=False),
        bootstrap_iters=0,
    )
    value = found["results"]["last_word"]["perplexity,none"]
    assert value == native.named["last_word"]["perplexity"]["value"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["organ"]}, "there is no task 'organ'; did you mean `organs`"),
        ({"include": "nowhere"}, "evaluate.include = 'nowhere': is no folder"),
        ({"tasks": ["organs", "broken"]}, "their data is not all here .*evaluate.hub is false"),
        ({"tasks": ["long"]}, "asks for continuations of 256 tokens, and a model sees 24"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_first(
    setting: Setting, changes: dict[str, object], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = setting.folder / "tasks"
    (folder / "broken.yaml").write_text(
        ORGANS.replace("task: organs", "task: broken").replace("ROWS", "/nowhere.jsonl")
    )
    long = COMPLETION.replace("task: completion", "task: long").replace(", max_gen_toks: 8", "")
    (folder / "long.yaml").write_text(long.replace("ROWS", str(folder / "rows.jsonl")))
    # lm-eval's own tasks are thousands of files.
    from megatron_core.evaluation import catalogue

    manager = catalogue.TaskManager
    monkeypatch.setattr(
        catalogue, "TaskManager",
        lambda include_path, **_: manager(include_path=include_path, include_defaults=False),
    )  # fmt: skip
    with pytest.raises(ReforgeError, match=message):
        load_tasks(setting.config.model_copy(update=changes), context=CONTEXT)


def work(folder: Path, layout: str) -> None:
    """Score on the ranks of a layout."""
    with open_mesh(Layout.parse(layout), "cpu", 1) as mesh:
        stored = StoredModel.find(folder / "checkpoints")
        decoder = stored.load(mesh, shards=2)
        service = open_service(
            mesh, decoder, folder / "tokenizer", stored, slots=3, batch_tokens=None
        )
        if not mesh.is_first:
            service.serve()
            return
        tokenizer = Tokenizer.load(folder / "tokenizer")
        model = NativeModel(service, tokenizer, first=0, context=CONTEXT)
        config = CONFIG.model_copy(update={"include": str(folder / "tasks")})
        found = run_harness(model, tasks(), load_tasks(config, context=CONTEXT))
        service.release()
        torch.save(found, folder / f"{layout}.pt")


def test_layouts_score_the_same(setting: Setting, native: HarnessResult) -> None:
    found = []
    for layout, ranks in (("data=1", 1), ("tensor=2", 2), ("data=2", 2)):
        assert run_ranks(work, ranks, setting.folder, layout) == [0] * ranks
        found.append(torch.load(setting.folder / f"{layout}.pt", weights_only=False))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert compare(native, found[0]).log_likelihood < 1e-5  # another grid is another arithmetic
