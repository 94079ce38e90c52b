"""The order of the work in a pipeline, and how long it takes; pure, so that it can be planned.

The virtual stages of a pipeline are dealt to its ranks in turn: stage ``v`` lives on rank
``v % ranks``. Gradients are added in the order of their microbatches, so in every schedule the
backward passes of a stage come in that order; a schedule then changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from megatron_core.errors import ConfigError
from megatron_core.parallel.layout import PipelineSchedule

Kind = Literal["forward", "backward", "weight"]
_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, order=True)
class Action:
    """One piece of a rank's work.

    Attributes:
        kind: ``backward`` is the whole backward pass, or only the gradient of the input where
            the schedule has ``weight`` actions for the gradients of the weights.
        stage: Virtual stage, from 0 at the embedding up.
        microbatch: Number of the microbatch in the step.
    """

    kind: Kind
    stage: int
    microbatch: int


def stage_layers(layers: int, stages: int) -> list[range]:
    """The layers of each virtual stage, as even as possible.

    What is left over goes to the middle stages from the back, where fewer microbatches are in
    flight, then to the first one, which has the embedding; the last one has the head.

    Raises:
        ConfigError: a stage would have no layer.
    """
    if stages > layers:
        raise ConfigError(
            f"{stages} pipeline stages cannot share {layers} layers: a stage needs one at least; "
            "lower pipeline or stages in the layout"
        )
    even, extra = divmod(layers, stages)
    fuller = range(stages - 1 - extra, stages - 1)
    split, start = [], 0
    for stage in range(stages):
        stop = start + even + (stage in fuller)
        split.append(range(start, stop))
        start = stop
    return split


def forward_actions(*, ranks: int, stages: int, microbatches: int) -> list[list[Action]]:
    """Forward passes alone, for evaluation: the order of each of ``ranks``' actions."""
    return [_passes("forward", rank, ranks, stages, microbatches) for rank in range(ranks)]


def pipeline_actions(
    kind: PipelineSchedule, *, ranks: int, stages: int, microbatches: int
) -> list[list[Action]]:
    """The order of the actions of each pipeline rank in one training step.

    A free rank takes up a forward pass that is ready if fewer are in flight than the schedule
    holds, else a backward pass, else the gradients of weights. With one stage per rank that is
    1F1B (Narayanan et al., 2019), with several interleaved 1F1B (Narayanan et al., 2021), with
    the backward pass split ZB-H1 (Qi et al., 2024). Any number of microbatches will do.

    Args:
        kind: Which schedule.
        ranks: Ranks of the pipeline.
        stages: Virtual stages of each rank; above 1 for ``interleaved`` alone.
        microbatches: Microbatches of the step.

    Raises:
        ConfigError: several stages per rank in a schedule that is not interleaved.
    """
    if stages > 1 and kind != "interleaved":
        raise ConfigError(f"schedule={kind} has one stage per rank, not {stages}")
    workers = [_Worker(kind, rank, ranks, stages, microbatches) for rank in range(ranks)]
    ended: dict[Action, int] = {}
    time = 0
    while any(worker.busy for worker in workers):
        for worker in workers:
            # An action of this moment ends later, so the order of the ranks is of no matter.
            worker.take(time, ended)
        time += 1
        if time > 3 * ranks * stages * microbatches:  # longer than one after the other
            raise RuntimeError(f"the ranks of schedule={kind} wait for each other")
    return [worker.taken for worker in workers]


class _Worker:
    """One rank that takes up its actions, one after the other."""

    def __init__(
        self, kind: PipelineSchedule, rank: int, ranks: int, stages: int, microbatches: int
    ) -> None:
        self.taken: list[Action] = []
        self._last = ranks * stages - 1
        self._split = kind == "zero_bubble"
        self._forwards = _passes("forward", rank, ranks, stages, microbatches)
        self._backwards = _passes("backward", rank, ranks, stages, microbatches)
        self._done: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self._free = 0
        # Microbatches whose backward pass this rank may await. Interleaved, one must go through
        # all stages of the rank first, and the way to the last rank and back counts double.
        self._awaited = ranks - rank
        if stages > 1:
            self._awaited = 2 * (ranks - rank) - 1 + (stages - 1) * ranks
        # Those whose activations it may hold: the delayed weights need no more than rank 0 does.
        self._held = ranks if self._split else self._awaited

    @property
    def busy(self) -> bool:
        """Whether there is something left to take up."""
        last = "weight" if self._split else "backward"
        return self._done[last] < len(self._backwards)

    def take(self, time: int, ended: dict[Action, int]) -> None:
        """Take up the next action if this rank is free and there is one that is ready."""
        action = self._next(time, ended) if self._free <= time and self.busy else None
        if action is None:
            return
        whole = action.kind == "backward" and not self._split
        self._free = ended[action] = time + (2 if whole else 1)
        self._done[action.kind] += 1
        self.taken.append(action)

    def _next(self, time: int, ended: dict[Action, int]) -> Action | None:
        forwards, backwards, weights = (self._done[kind] for kind in _KINDS)
        finished = weights if self._split else backwards
        room = forwards - backwards < self._awaited and forwards - finished < self._held
        if room and forwards < len(self._forwards):
            action = self._forwards[forwards]
            if self._ready(action, time, ended):
                return action
        if backwards < forwards:
            action = self._backwards[backwards]
            if self._ready(action, time, ended):
                return action
        if self._split and weights < backwards:
            done = self._backwards[weights]
            return Action("weight", done.stage, done.microbatch)
        return None

    def _ready(self, action: Action, time: int, ended: dict[Action, int]) -> bool:
        return all(ended.get(needed, time + 1) <= time for needed in _needs(action, self._last))


def _passes(kind: Kind, rank: int, ranks: int, stages: int, microbatches: int) -> list[Action]:
    """Groups of ``ranks`` microbatches, each through all stages of the rank."""
    mine = [rank + ranks * chunk for chunk in range(stages)]
    return [
        Action(kind, stage, microbatch)
        for first in range(0, microbatches, ranks)
        for stage in (mine if kind == "forward" else reversed(mine))
        for microbatch in range(first, min(first + ranks, microbatches))
    ]


def _needs(action: Action, last: int) -> list[Action]:
    """The actions that must have ended before ``action``; ``last`` is the last virtual stage."""
    stage, microbatch = action.stage, action.microbatch
    if action.kind == "weight":
        return [Action("backward", stage, microbatch)]
    if action.kind == "forward":
        return [Action("forward", stage - 1, microbatch)] if stage else []
    needed = [Action("forward", stage, microbatch)]
    if stage < last:
        needed.append(Action("backward", stage + 1, microbatch))
    return needed


@dataclass(frozen=True)
class Timeline:
    """A step of the pipeline in time, in the unit of the costs.

    Attributes:
        makespan: From the first action's start to the last one's end.
        busy: Time that each rank works.
    """

    makespan: float
    busy: tuple[float, ...]

    @property
    def bubble(self) -> float:
        """Share of the ranks' time that they wait."""
        return 1 - sum(self.busy) / (len(self.busy) * self.makespan)


def simulate(
    actions: Sequence[Sequence[Action]],
    costs: Callable[[Action], float],
    *,
    transfer: float = 0.0,
) -> Timeline:
    """Run each rank's ``actions`` in their order, each as soon as what it needs is there.

    Args:
        actions: The order of each rank's actions.
        costs: How long an action takes.
        transfer: How long a tensor travels to a stage on another rank.

    Raises:
        ValueError: the orders wait for each other.
    """
    home = {action: rank for rank, mine in enumerate(actions) for action in mine}
    last = max((action.stage for action in home), default=0)
    ended: dict[Action, float] = {}
    taken, free = [0] * len(actions), [0.0] * len(actions)
    while len(ended) < len(home):
        before = len(ended)
        for rank, mine in enumerate(actions):
            while taken[rank] < len(mine):
                action = mine[taken[rank]]
                needed = _needs(action, last)
                if any(other not in ended for other in needed):
                    break
                arrivals = (
                    ended[other] + (transfer if home[other] != rank else 0.0) for other in needed
                )
                free[rank] = ended[action] = max(free[rank], *arrivals, 0.0) + costs(action)
                taken[rank] += 1
        if len(ended) == before:
            waiting = [mine[n] for mine, n in zip(actions, taken, strict=True) if n < len(mine)]
            raise ValueError(f"the ranks wait for each other: {waiting}")
    return Timeline(max(free, default=0.0), tuple(sum(map(costs, mine)) for mine in actions))
