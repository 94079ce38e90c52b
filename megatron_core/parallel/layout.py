"""The layout: how many ranks each dimension of the grid is spread over."""

from __future__ import annotations

from collections.abc import Mapping
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
    def choose(
        cls, text: str, grids: Mapping[str, Grid], *, room: int, joined: int | None
    ) -> Layout:
        """The layout that ``text`` asks for, checked against the ``grids`` of the recipe.

        ``auto`` takes the ranks that have ``joined``, or as many as the grids allow and this
        machine has ``room`` for.

        Raises:
            ConfigError: the text is no layout, asks for other ranks than have joined, or a
                degree does not divide the grid's.
        """
        if text != "auto":
            layout = cls.parse(text)
        elif joined is not None:
            layout = cls(data=joined)
        else:
            degree = min(grid.data for grid in grids.values())
            while degree > max(1, room):
                degree //= 2
            layout = cls(data=degree)
        if joined is not None and layout.ranks != joined:
            raise ConfigError(
                f"--layout {text} needs {layout.ranks} ranks, but {joined} were launched"
            )
        for section, grid in grids.items():
            if grid.data % layout.data:
                raise ConfigError(
                    f"data={layout.data} in the layout must divide {section}.grid.data = "
                    f"{grid.data}; a larger grid is another recipe and gives other bits"
                )
        return layout

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read ``data=2``.

        Raises:
            ConfigError: the text is no layout.
        """
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
        return cls(**degrees)
