"""The models of a project, each scored natively, through its export, or both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_core.config import EvaluateConfig
from megatron_core.conversion import CERTIFICATE
from megatron_core.data.documents import read_shards
from megatron_core.data.tokenizer import Tokenizer
from megatron_core.errors import ReforgeError
from megatron_core.evaluation.catalogue import TaskDict, load_tasks
from megatron_core.evaluation.exported import ExportedModel
from megatron_core.evaluation.harness import HarnessResult, quiet, run_harness
from megatron_core.evaluation.memorization import Memorization
from megatron_core.evaluation.native import NativeModel, open_service
from megatron_core.evaluation.scores import Scoreboard, compare
from megatron_core.evaluation.tasks import TaskSet, make_tasks, write_tasks
from megatron_core.files import write_json
from megatron_core.identity import list_files, merkle_root
from megatron_core.inference import StoredModel, open_tokenizer, special_tokens
from megatron_core.inference.service import Service
from megatron_core.parallel.mesh import Mesh
from megatron_core.progress import progress_bar


@dataclass(frozen=True)
class Subject:
    """A model to score: its checkpoint, and the Hugging Face folder made of it.

    ``export`` is None for a model with a soft prompt, which is only scored as it is.
    """

    stored: StoredModel
    export: Path | None


@dataclass(frozen=True)
class Inputs:
    """What models are scored on and compared with.

    Attributes:
        heldout: Shards of held-out documents.
        tokenizer: Tokenizer folder that all models share.
        tokenized: Training datasets, for the n-gram baselines, beside the held-out ones.
        roots: Content roots to record beside those of models and tasks.
    """

    heldout: Path
    tokenizer: Path
    tokenized: Path
    roots: Mapping[str, str]


class Evaluation:
    """Scores several models on the ranks of a mesh."""

    def __init__(self, inputs: Inputs, config: EvaluateConfig, mesh: Mesh, *, context: int) -> None:
        """
        Args:
            inputs: Tasks are made from them.
            config: What to score and how.
            mesh: Its first rank runs lm-eval, all compute what that asks of our models.
            context: Tokens a model sees at most; best what it was trained on.
        """
        self.inputs, self.config, self.mesh, self.context = inputs, config, mesh, context

    def run(self, subjects: Mapping[str, Subject], output: Path) -> dict[str, Any]:
        """Write tasks, ``scores.json`` and ``generations.json`` to ``output``, on the first rank.

        Returns:
            The scores: ``perplexity[source][model]`` with a source ``all``,
            ``multiple_choice[model]`` with a model ``chance``, ``tasks[name]``, and
            ``memorization[model]`` if the recipe asks for it. Empty on other ranks.

        Raises:
            CorpusError: there are too few held-out documents, or no training tokens.
            ConfigError: a task is unknown, or the model cannot be cut so.
            ReforgeError: a tokenizer is not the model's, or a task's data is not here.
        """
        roots = {name: self._check(subject) for name, subject in subjects.items()}
        if not self.mesh.is_first:
            for subject in subjects.values():
                self._serve(subject).serve()
            return {}
        config, encoder = self.config, Tokenizer.load(self.inputs.tokenizer)
        with quiet():
            named = load_tasks(config, context=self.context)
        tasks = make_tasks(read_shards(self.inputs.heldout), config)
        write_tasks(tasks, output / "tasks")
        board = Scoreboard.with_baselines(tasks, encoder, self.inputs.tokenized, config.seed)
        memorization = None
        if config.memorization is not None:
            memorization = Memorization(self.inputs.tokenized.parent, encoder, config)
        remembered: dict[str, Any] = {}
        raw: dict[str, Any] = {}
        agreement: dict[str, Any] = {}
        generations: list[dict[str, str]] = []
        for name, subject in subjects.items():
            results, texts, found = self._score(name, subject, tasks, named, memorization)
            remembered |= {} if found is None else {name: found}
            first, *others = results.values()
            board.add(name, first)
            raw[name] = {**first.perplexity, "questions": first.questions, **first.groups}
            if others:
                agreement[name] = asdict(compare(first, others[0]))
            generations += [{"model": name, **text} for text in texts]
        files = list_files(output / "tasks")
        scores = {
            "agreement": agreement,
            "documents": {source: len(of) for source, of in tasks.passages.items()},
            "lm_eval": raw,
            **({} if memorization is None else {"memorization": remembered}),
            "multiple_choice": board.with_chance(config.choices),
            "perplexity": board.perplexity,
            "questions": len(tasks.questions),
            "roots": {
                **self.inputs.roots,
                **roots,
                "tasks": merkle_root({path: entry.sha256 for path, entry in files.items()}),
            },
            "scorers": list(config.scorers),
            "tasks": board.named,
        }
        write_json(output / "scores.json", scores)
        write_json(output / "generations.json", generations)
        return scores

    def _check(self, subject: Subject) -> str:
        """All that can be known to be wrong before anything is computed; the model's root."""
        subject.stored.grid(self.mesh.layout.tensor, self.config.shards)
        open_tokenizer(self.inputs.tokenizer, subject.stored)
        if subject.export is None:
            return subject.stored.root()
        ours, theirs = (f / "tokenizer.json" for f in (self.inputs.tokenizer, subject.export))
        if not theirs.is_file() or theirs.read_bytes() != ours.read_bytes():
            raise ReforgeError(
                f"the tokenizer in {subject.export} gives other tokens than the pipeline's: run "
                "`reforge convert` again"
            )
        made_from = _read_certificate(subject.export)
        if made_from != subject.stored.root():
            raise ReforgeError(
                f"{subject.export} was not made from {subject.stored.path}: run `reforge convert`"
            )
        return made_from

    def _serve(self, subject: Subject, on_done: Any = lambda number: None) -> Service:
        config = self.config
        decoder = subject.stored.load(self.mesh, shards=config.shards, precision=config.precision)
        return open_service(
            self.mesh, decoder, self.inputs.tokenizer, subject.stored,
            slots=config.generation.slots, batch_tokens=config.batch_tokens, on_done=on_done,
        )  # fmt: skip

    def _score(
        self,
        name: str,
        subject: Subject,
        tasks: TaskSet,
        named: TaskDict,
        memorization: Memorization | None,
    ) -> tuple[dict[str, HarnessResult], list[dict[str, str]], dict[str, Any] | None]:
        """The results of each scorer, the sample generations, and what the model remembers."""
        config = self.config
        results: dict[str, HarnessResult] = {}
        with progress_bar() as bar:
            service = self._serve(subject, _ticker(bar, f"scoring {name}", self.mesh.layout.data))
            encoder = open_tokenizer(self.inputs.tokenizer, subject.stored)
            first, _ = special_tokens(self.inputs.tokenizer, encoder)
            for scorer in config.scorers if subject.export is not None else ["native"]:
                if scorer == "native" or subject.export is None:
                    context = min(self.context, subject.stored.room)
                    model: Any = NativeModel(service, encoder, first=first, context=context)
                else:
                    tick = _ticker(bar, f"scoring {name} through transformers", 1)
                    with quiet():
                        model = ExportedModel(
                            subject.export, context=self.context, device=config.device,
                            precision=config.precision, on_done=tick,
                        )  # fmt: skip
                results[scorer] = run_harness(
                    model, tasks, named, limit=config.limit, seed=config.seed
                )
            prompts = [[first, *encoder.encode(prompt)] for prompt in config.generation.prompts]
            made = service.ask("generate", prompts, config=config.generation)
            found = None
            if memorization is not None:
                found = memorization.measure(service, first=first)
            service.release()
        texts = [
            {"prompt": prompt, "text": one.text}
            for prompt, one in zip(config.generation.prompts, made, strict=True)
        ]
        return results, texts, found


def _ticker(bar: Any, description: str, ranks: int) -> Any:
    task = bar.add_task(description, total=None)
    return lambda number: bar.advance(task, number * ranks)


def _read_certificate(folder: Path) -> str:
    """The root of the checkpoint that the model in ``folder`` was made from."""
    path = folder / CERTIFICATE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError) as error:
        raise ReforgeError(f"{path} cannot be read: run `reforge convert` again") from error
