"""The layout: how many ranks each dimension of the grid is spread over."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from megatron_core.config import Grid
from megatron_core.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """Ranks per dimension. It changes no bit of a result, so it is no part of the recipe."""

    data: int = 1

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.data

    def degrees(self) -> dict[str, int]:
        """As recorded in manifests."""
        return asdict(self)

    @classmethod
    def parse(cls, text: str | None, *, joined: int | None = None) -> Layout:
        """Read ``data=2``; without a text, all ``joined`` ranks (or one) go to data.

        Raises:
            ConfigError: the text is no layout, or asks for other ranks than have joined.
        """
        if not text:
            return cls(data=joined or 1)
        degrees: dict[str, int] = {}
        for part in text.split(","):
            name, _, number = part.partition("=")
            if name not in cls.__dataclass_fields__:
                raise ConfigError(
                    f"--layout {text}: `{name}` cannot be laid out over ranks in this version; "
                    f"write {', '.join(f'{f}=N' for f in cls.__dataclass_fields__)}"
                )
            if not number.isdecimal() or int(number) < 1:
                raise ConfigError(f"--layout {text}: `{part}` needs a whole number from 1 up")
            degrees[name] = int(number)
        layout = cls(**degrees)
        if joined is not None and layout.ranks != joined:
            raise ConfigError(
                f"--layout {text} needs {layout.ranks} ranks, but {joined} were launched"
            )
        return layout

    def check(self, grid: Grid, section: str) -> None:
        """Raise ConfigError unless each degree divides the grid's."""
        if grid.data % self.data:
            raise ConfigError(
                f"--layout data={self.data} must divide {section}.grid.data = {grid.data}; "
                "a larger grid is another recipe and gives other bits"
            )
