"""Everything the page says, read from a project."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from megatron_core.errors import IntegrityError
from megatron_core.identity import hash_json
from megatron_core.reporting.data import Data, read_data
from megatron_core.reporting.evaluation import Evaluation, read_evaluation
from megatron_core.reporting.project import Project
from megatron_core.reporting.proof import Proof, read_proof
from megatron_core.reporting.training import Training, read_training


@dataclass(frozen=True)
class Results:
    """What the page says, without when and where it came about.

    ``converted`` is the largest difference of logits by exported model.
    """

    title: str
    data: Data
    training: Training
    evaluation: Evaluation
    converted: dict[str, float | None]
    proof: Proof

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchor and heading of each section."""
        samples = [("samples", "Samples")] if self.evaluation.continuations else []
        memory = [("memorization", "Memory")] if self.evaluation.memorization else []
        return [
            ("pipeline", "Pipeline"), ("data", "Data"), ("training", "Training"),
            ("evaluation", "Evaluation"), *memory, *samples, ("proof", "Proof"),
        ]  # fmt: skip

    def identity(self) -> str:
        """A hash of the results: no time, machine, layout or operational setting enters it."""
        return hash_json(
            {
                "title": self.title,
                "data": asdict(self.data),
                "evaluation": asdict(self.evaluation),
                "losses": {run.key: [run.steps, run.loss] for run in self.training.runs},
                "roots": self.proof.roots,
                "good": self.proof.verdict.good,
            }
        )


def read_results(project: Project, title: str) -> Results:
    """Read everything that the page says.

    Raises:
        IntegrityError: a file is missing, unreadable, or lacks what the page needs.
    """
    try:
        return Results(
            title=title,
            data=read_data(project),
            training=read_training(project),
            evaluation=read_evaluation(project),
            converted={
                model: of["max_logit_difference"]
                for model, of in project.numbers("convert").items()
            },
            proof=read_proof(project),
        )
    except KeyError as error:
        raise IntegrityError(
            f"the artifacts in {project.artifacts} lack {error}, so another version made them: "
            "run `dvc repro --force`"
        ) from error
