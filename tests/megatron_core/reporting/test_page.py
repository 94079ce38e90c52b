"""The page as a browser would parse it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megatron_core.config import STAGES
from megatron_core.errors import IntegrityError
from megatron_core.files import write_json
from megatron_core.reporting import Project, read_circumstances, read_results, render
from megatron_core.reporting.pipeline import pipeline_nodes
from tests import projects

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def text(self) -> str:
        """What a reader sees, white space collapsed."""
        shown = [t for tag, ts in self.texts.items() if tag not in ("style", "script") for t in ts]
        return " ".join(" ".join(shown).split())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    projects.write_project(tmp_path)
    return Project(tmp_path / "artifacts", tmp_path / "metrics")


def _html(project: Project) -> str:
    return render(read_results(project, "A tiny model"), read_circumstances(project))


def test_tasks_of_lm_eval_show_their_intervals(project: Project) -> None:
    page = Page(_html(project))
    assert "lambada" in page.texts["th"]
    assert {"acc", "70", "adapted", "0.432", "0.400 – 0.456", "25.0\u00a0%"} <= {*page.texts["td"]}
    assert "95 % intervals over documents" in page.text


def test_the_page_says_what_was_made(project: Project) -> None:
    page = Page(_html(project))
    for sentence in (
        "12,345 parameters, made from 100 documents: 2,000 tokens to train on",
        "The last runs of its stages took 16 s",
        "10 of them (10.0 %) were removed",
        "shorter than 40 characters",
        "The baseline wins.",
        "Clearly better than guessing is the adapted model.",
    ):
        assert sentence in page.text, sentence
    anchors = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert anchors == {"pipeline", "data", "training", "evaluation", "samples", "proof"}
    titles = {attributes.get("title") for tag, attributes in page.tags if tag == "code"}
    assert {manifest.root for manifest in project.manifests.values()} <= titles


def test_texts_of_the_corpus_stay_texts(project: Project) -> None:
    html = _html(project)
    page = Page(html)
    assert html.count("<script") == 1
    assert not any(attributes for tag, attributes in page.tags if tag in ("script", "b"))
    assert page.text.count('alert("x")') >= 4
    marked = page.texts["mark"]
    assert marked == ["fever", "cough"]


def test_the_page_loads_nothing(project: Project) -> None:
    html = _html(project)
    page = Page(html)
    loaded = [
        (tag, name)
        for tag, attributes in page.tags
        for name in attributes
        if name in ("src", "srcset", "href", "action", "data")
        and not str(attributes[name]).startswith("#")
    ]
    assert loaded == []
    assert (
        "url(" not in html
        and "@import" not in html
        and "http" not in html.replace("http-equiv", "")
    )
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    digest = hashlib.sha256("".join(page.texts["script"]).encode()).digest()
    assert policy and f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_curves_hold_every_step(project: Project) -> None:
    page = Page(_html(project))
    plots = [a for tag, a in page.tags if tag == "div" and a.get("class") == "plot"]
    points = json.loads(str(plots[0]["data-points"]))
    assert [point[1] for point in points] == list(range(1, 21))
    assert points[3][2:] == [5.96, 6.46] and points[4][3] is None
    for tag, attributes in page.tags:
        if tag == "path":
            assert "nan" not in str(attributes["d"])


def test_best_scores_are_marked(project: Project) -> None:
    html = _html(project)
    best = re.findall(r"<td class=best>([\d.]+)</td>", html)
    tasks = ["0.600", "0.600", "0.812"]  # both metrics of one, the metric of the other
    assert best == ["1.500", "9.0", "1.300", "9.0", "1.600", "9.0", *tasks]


def test_parts_without_input_are_left_out(project: Project) -> None:
    for path in (
        "evaluate/generations.json", "finetune/results/chapters.json",
        "finetune/results/ner.json",
        "dedup/duplicates.jsonl", "decontaminate/removed.jsonl",
    ):  # fmt: skip
        (project.artifacts / path).unlink()
    write_json(project.artifacts / "curate/drops.json", {})
    page = Page(_html(project))
    for gone in (
        "Samples",
        "classes of texts",
        "entities in texts",
        "Near-duplicates,",
        "Dropped",
        "Overlapped",
    ):
        assert gone not in page.text


def test_rules_that_removed_nothing_are_not_listed(project: Project) -> None:
    removals = read_results(project, "A tiny model").data.removals
    assert [(removal.reason, removal.documents) for removal in removals] == [
        ("too short", 5), ("near-duplicates", 1), ("overlap with the held-out documents", 4)
    ]  # fmt: skip


def test_the_pipeline_counts_what_is_left(project: Project) -> None:
    nodes = {node.stage: node for node in pipeline_nodes(read_results(project, "A tiny model"))}
    assert [nodes[stage].number for stage in ("ingest", "curate", "dedup")] == ["100", "95", "94"]
    assert nodes["curate"].note == "5 removed: too short"
    assert nodes["decontaminate"].note == "10 held out, 4 overlap"
    assert nodes["pretrain"].note == "20 steps, held-out loss 6.30"
    assert nodes["evaluate"].number == "1.500" and "trigram is best" in nodes["evaluate"].note
    assert list(nodes) == list(STAGES)


def test_a_sample_that_was_cut_ends_after_a_whole_word(project: Project) -> None:
    drops = project.read("curate", "drops.json")
    drops["too_short"]["samples"] = [
        {"id": "notes/1", "text": "word " * 39 + "cut-o"},
        {"id": "notes/2", "text": "whole"},
    ]
    write_json(project.artifacts / "curate/drops.json", drops)
    texts = [drop.text for drop in read_results(project, "A tiny model").data.drops]
    assert texts == ["word " * 39 + "…", "whole"]


def test_the_identity_is_of_results_alone(project: Project, tmp_path: Path) -> None:
    ours = read_results(project, "A tiny model")
    other = projects.write_project(tmp_path / "other", seconds=99.0, ranks=4)
    theirs = read_results(Project(other / "artifacts", other / "metrics"), "A tiny model")
    assert ours.identity() == theirs.identity()
    scores = projects.scores()
    scores["perplexity"]["notes"]["adapted"]["bits_per_byte"] += 1e-12
    write_json(other / "artifacts/evaluate/scores.json", scores)
    theirs = read_results(Project(other / "artifacts", other / "metrics"), "A tiny model")
    assert ours.identity() != theirs.identity()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("artifacts/evaluate/scores.json", None, "does not exist: run `reforge evaluate`"),
        ("artifacts/evaluate/scores.json", "{", "is not JSON: run `reforge evaluate` again"),
        ("artifacts/evaluate/scores.json", "{}", "lack 'perplexity', so another version"),
        ("artifacts/dedup/duplicates.jsonl", "{\n", "is not JSON lines: run `reforge dedup`"),
        ("artifacts/pretrain/steps.jsonl", "", "pretraining is missing or empty"),
        ("metrics/ingest.json", "[]", "run `reforge ingest` again"),
    ],
)
def test_what_is_missing_is_named(
    project: Project, path: str, content: str | None, message: str
) -> None:
    target = project.artifacts.parent / path
    if content is None:
        target.unlink()
    else:
        target.write_text(content)
    with pytest.raises(IntegrityError, match=re.escape(message)):
        read_results(project, "A tiny model")


def test_each_task_has_its_scores(project: Project) -> None:
    chapters, ner = read_results(project, "A tiny model").evaluation.tasks
    assert (chapters.title, chapters.value) == ("chapters: classes of texts", 0.5)
    assert chapters.details == ["90 examples to learn from", "10 to score", "7 classes"]
    assert [row[0] for row in chapters.rows] == [
        "majority class", "TF-IDF + logistic regression", "fine-tuned model"
    ]  # fmt: skip
    assert chapters.columns == ["macro-F1", "accuracy"]
    assert chapters.seeds == []
    assert ner.seeds == [("3", [0.805]), ("4", [0.82])]
    assert ner.spreads == [0.011]
    page = Page(_html(project))
    for said in (
        "on average over 2 trainings, reaches a micro-F1 of 0.812", "1,234 examples to learn from",
        "of the fine-tuned model over its 2 trainings", "seed 3", "standard deviation over seeds",
        "0.800 – 0.825", "0.011", "Task chapters", "Task ner, seed 3", "Task ner, seed 4",
        "nats per word", "sequences seen",
    ):  # fmt: skip
        assert said in page.text, said
    assert page.text.count("held-out perplexity") == 2  # of the two that read text


def without(monkeypatch: pytest.MonkeyPatch, folder: Path, **recipe: Any) -> Project:
    """A project whose finetune has only what ``recipe`` says."""
    made = projects.artifacts()
    kept = made["finetune"]["continued/steps.jsonl"] if recipe["continued"] else None
    made["finetune"] = {"continued/steps.jsonl": kept} if kept else {}
    made["evaluate"]["scores.json"] |= {"multiple_choice": {}, "questions": 0}
    monkeypatch.setitem(projects.RECIPES, "finetune", recipe)
    monkeypatch.setattr(projects, "artifacts", lambda: made)
    projects.write_project(folder)
    return Project(folder / "artifacts", folder / "metrics")


def test_a_recipe_without_tasks_and_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    continued = projects.RECIPES["finetune"]["continued"]
    project = without(monkeypatch, tmp_path, continued=continued, tasks={})
    page = Page(_html(project))
    assert "Continued pretraining" in page.text
    for absent in ("chapters", "Choosing the term", "question"):
        assert absent not in page.text


def test_a_recipe_that_only_pretrains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = without(monkeypatch, tmp_path, continued=None, tasks={})
    results = read_results(project, "A tiny model")
    assert [run.key for run in results.training.runs] == ["pretrain"]
    nodes = {node.stage: node for node in pipeline_nodes(results)}
    assert (nodes["finetune"].number, nodes["finetune"].what) == ("", "nothing fine-tuned")
    assert "Task " not in Page(_html(project)).text


def test_an_encoder_has_found_hidden_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = projects.artifacts()
    made["evaluate"] = {"scores.json": projects.masked()}
    pretrain = projects.RECIPES["pretrain"]
    encoder = {**pretrain, "model": {**pretrain["model"], "kind": "encoder"}}
    monkeypatch.setitem(projects.RECIPES, "pretrain", encoder)
    monkeypatch.setattr(projects, "artifacts", lambda: made)
    projects.write_project(tmp_path)
    project = Project(tmp_path / "artifacts", tmp_path / "metrics")
    page = Page(_html(project))
    for said in (
        "An encoder: 2 layers", "finds 40.0\u00a0% of the hidden tokens", "nats per hidden token",
        "300 hidden tokens of 40 held-out sequences", "3.000", "kinds of pairs told",
    ):  # fmt: skip
        assert " ".join(said.split()) in page.text, said
    assert "bits per byte" not in page.text
    assert "held-out perplexity" not in page.text
    nodes = {node.stage: node for node in pipeline_nodes(read_results(project, "x"))}
    assert nodes["evaluate"].number == "40.0\u00a0%"
    assert nodes["evaluate"].note == "adapted is best"
