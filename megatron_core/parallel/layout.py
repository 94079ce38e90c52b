"""The layout: how many ranks each dimension of the grid is spread over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from megatron_core.config import Grid, ModelConfig
from megatron_core.errors import ConfigError

PipelineSchedule = Literal["1f1b", "interleaved", "zero_bubble"]


@dataclass(frozen=True)
class Layout:
    """Ranks per dimension. It changes no bit of a result, so it is no part of the recipe.

    Attributes:
        data: Ranks that share the data shards.
        tensor: Ranks that share the tensor shards; sequence slices go with them.
        context: Ranks that share the context chunks.
        pipeline: Ranks that share the layers.
        expert: Neighbours among the data ranks that share the experts; takes no ranks of its own.
        stages: Pipeline stages of each pipeline rank; above 1 they are interleaved.
        schedule: Order of the microbatches in the pipeline.
    """

    data: int = 1
    tensor: int = 1
    context: int = 1
    pipeline: int = 1
    expert: int = 1
    stages: int = 1
    schedule: PipelineSchedule = "1f1b"

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.data * self.tensor * self.context * self.pipeline

    def degrees(self) -> dict[str, int | str]:
        """As recorded in manifests: what differs from one rank."""
        mine, alone = asdict(self), asdict(Layout())
        return {name: mine[name] for name in mine if name == "data" or mine[name] != alone[name]}

    def __str__(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.degrees().items())

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read ``data=2,tensor=2,pipeline=2,stages=2,schedule=interleaved``.

        Raises:
            ConfigError: the text is no layout.
        """
        known = [field.name for field in fields(cls)]
        degrees: dict[str, int] = {}
        schedule: str | None = None
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in known:
                raise ConfigError(
                    f"--layout {text}: `{name}` is no dimension of a layout; "
                    f"write NAME=N, separated by commas, with the names {', '.join(known)}"
                )
            if name in degrees or (name == "schedule" and schedule is not None):
                raise ConfigError(f"--layout {text}: `{name}` is there twice")
            if name == "schedule":
                if value not in get_args(PipelineSchedule):
                    raise ConfigError(
                        f"--layout {text}: schedule must be one of "
                        f"{', '.join(get_args(PipelineSchedule))}"
                    )
                schedule = value
            elif not value.isdecimal() or not value.isascii() or int(value) < 1:
                raise ConfigError(f"--layout {text}: `{part}` needs a whole number from 1 up")
            else:
                degrees[name] = int(value)
        if schedule is None:
            schedule = "interleaved" if degrees.get("stages", 1) > 1 else "1f1b"
        layout = cls(**degrees, schedule=schedule)  # type: ignore[arg-type]
        if (layout.stages > 1) != (layout.schedule == "interleaved"):
            raise ConfigError(
                f"--layout {text}: stages above 1 go with schedule=interleaved, and only with it"
            )
        if (layout.stages > 1 or layout.schedule == "zero_bubble") and layout.pipeline == 1:
            what = "stages" if layout.stages > 1 else "schedule=zero_bubble"
            raise ConfigError(f"--layout {text}: {what} needs pipeline above 1")
        if layout.data % layout.expert:
            raise ConfigError(
                f"--layout {text}: expert={layout.expert} must divide data={layout.data}, whose "
                "ranks share the experts"
            )
        return layout

    @classmethod
    def choose(
        cls, text: str, grids: Mapping[str, Grid], model: ModelConfig, *, room: int,
        joined: int | None,
    ) -> Layout:  # fmt: skip
        """The layout that ``text`` asks for, checked against the recipe's ``grids`` and model.

        ``auto`` takes the ranks that have ``joined``, or as many as the grids allow and this
        machine has ``room`` for: data first, then tensor, then context.

        Raises:
            ConfigError: the text is no layout, asks for other ranks than have joined, or does
                not fit the grids or the model; all misfits are named.
        """
        if text == "auto":
            layout = cls._fill(grids, room if joined is None else joined)
        else:
            layout = cls.parse(text)
        if joined is not None and layout.ranks != joined:
            raise ConfigError(
                f"--layout {text} needs {layout.ranks} ranks, but {joined} were launched: "
                "say with --layout how to spread the recipe over them"
            )
        problems = [p for section, grid in grids.items() for p in layout._misfits(section, grid)]
        problems += layout._model_misfits(model)
        if problems:
            raise ConfigError(
                f"--layout {layout} does not fit the recipe:\n  " + "\n  ".join(problems)
            )
        return layout

    @classmethod
    def _fill(cls, grids: Mapping[str, Grid], room: int) -> Layout:
        """Spread over at most ``room`` ranks, a power of two of them."""
        degrees, left = {}, max(1, room)
        for name in ("data", "tensor", "context"):
            degree = min(getattr(grid, name) for grid in grids.values())
            while degree > left:
                degree //= 2
            degrees[name] = degree
            left //= degree
        return cls(**degrees)

    def _misfits(self, section: str, grid: Grid) -> Iterator[str]:
        for name in ("data", "tensor", "context"):
            mine, shards = getattr(self, name), getattr(grid, name)
            if shards % mine:
                yield (
                    f"{name}={mine} must divide {section}.grid.{name} = {shards}; "
                    "a larger grid is another recipe and gives other bits"
                )

    def _model_misfits(self, model: ModelConfig) -> Iterator[str]:
        stages = self.pipeline * self.stages
        if stages > model.layers:
            yield f"{stages} pipeline stages need a layer each, and the model has {model.layers}"
        experts = 1 if model.experts is None else model.experts.count
        if experts % self.expert:
            has = f"{experts} experts" if model.experts else "no experts"
            yield f"expert={self.expert} must divide the experts, and the model has {has}"
