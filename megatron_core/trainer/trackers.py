"""Where curves go while a run trains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megatron_core.errors import MissingExtraError, ReforgeError


class Tracker(Protocol):
    """Receives the numbers of each step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step by name."""
        ...

    def close(self) -> None:
        """Flush what is pending."""
        ...


def open_tracker(kind: str, folder: Path, name: str) -> Tracker:
    """A fresh tracker of ``kind`` that writes below ``folder``.

    Raises:
        MissingExtraError: its library is not installed.
    """
    kinds: dict[str, Callable[[Path, str], Tracker]] = {
        "dvclive": Dvclive,
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
    }
    return kinds[kind](folder / kind, name)


class Dvclive:
    """A table per curve, which ``dvc plots`` draws."""

    def __init__(self, folder: Path, name: str) -> None:
        from dvclive import Live
        from scmrepo.exceptions import SCMError

        logging.getLogger("dvclive").setLevel(logging.ERROR)
        try:
            self._live = Live(
                str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False
            )
        except SCMError as error:
            raise ReforgeError(
                "dvclive needs a first commit in this git repository: run `git add . && git "
                "commit`, or take dvclive out of `trackers`"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)

    def close(self) -> None:
        self._live.end()


class TensorBoard:
    """TensorBoard's event files."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard") from error
        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Weights & Biases, the run named after the folder; its mode is the environment's."""

    def __init__(self, folder: Path, name: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("wandb", "wandb") from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(dir=str(folder), id=name, name=name, resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """All trackers of a run, given the steps that were taken before it resumed."""

    def __init__(
        self, kinds: Sequence[str], folder: Path, name: str, earlier: Sequence[Mapping[str, Any]]
    ) -> None:
        self._trackers = [open_tracker(kind, folder, name) for kind in kinds]
        for record in earlier:
            self.log(record)

    def log(self, record: Mapping[str, Any]) -> None:
        """Pass on one step's record."""
        values = {key: value for key, value in record.items() if key != "step"}
        for tracker in self._trackers:
            tracker.log(record["step"], values)

    def close(self) -> None:
        """Close every tracker."""
        for tracker in self._trackers:
            tracker.close()
