"""Microbatches through the stages of the model, in the order of a schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_core.collectives import peers
from megatron_core.model import Place
from megatron_core.parallel.mesh import Mesh
from megatron_core.parallel.schedule import Action
from megatron_core.regions import Region, region


@dataclass(frozen=True)
class Microbatch:
    """What one microbatch is, on every rank that computes some of it.

    Attributes:
        tokens: int64 ``[s, b]`` of each local context chunk.
        targets: Of each local chunk, as the model's ``losses`` takes them.
        places: Of each local chunk; no leaves in evaluation.
        deferred: Products of weight gradients that wait for their turn.
    """

    tokens: Sequence[Tensor]
    targets: Sequence[Tensor]
    places: Sequence[Place]
    deferred: list[Callable[[], None]] = field(default_factory=list)


class Stage(Protocol):
    """What the pipeline asks of a part of the model; see ``LanguageModel``."""

    def embed(self, tokens: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]: ...

    def blocks(self, chunks: Sequence[Tensor], places: Sequence[Place]) -> list[Tensor]: ...

    def losses(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]: ...

    def outputs(
        self, chunks: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Place]
    ) -> list[Tensor]: ...


@dataclass(frozen=True)
class _Message:
    """Activations from a stage to the next, or gradients back to it, of one microbatch."""

    backward: bool
    stage: int
    microbatch: int

    def action(self, further: int = 0) -> Action:
        """What sends it; ``further`` stages on, what uses it."""
        stage = self.stage + further
        return Action("backward" if self.backward else "forward", stage, self.microbatch)


class Pipeline:
    """Runs the stages of this rank; ``torch.distributed``'s point-to-point calls in between."""

    def __init__(
        self,
        stages: Mapping[int, Stage],
        mesh: Mesh,
        *,
        count: int,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        chunks: int,
    ) -> None:
        """
        Args:
            stages: By number, those of this rank.
            count: Stages of all ranks.
            shape: Of the residual stream between stages, ``(slice, b, hidden)``.
            dtype: Of the residual stream.
            chunks: Context chunks computed here.
        """
        self.stages, self.mesh, self.count = stages, mesh, count
        self.shape, self.dtype, self.chunks = (chunks, *shape), dtype, chunks

    @property
    def holds_head(self) -> bool:
        """Whether the losses are computed on this rank."""
        return self.count - 1 in self.stages

    def run(
        self, actions: Sequence[Sequence[Action]], microbatches: Sequence[Microbatch], *,
        outputs: bool = False,
    ) -> list[list[Tensor]]:  # fmt: skip
        """Take this rank's ``actions``; losses by chunk of each microbatch, where the head is.

        Args:
            actions: Of every rank of the pipeline.
            microbatches: By number.
            outputs: What the model tells, in place of its losses; with forward passes alone.

        Returns:
            Detached, losses fp32 and each a scalar or ``[parts]``; empty lists on ranks without
            the head.
        """
        found: list[list[Tensor]] = [[] for _ in microbatches]
        flow = _Flow(self, actions, microbatches, found, outputs=outputs)
        for action in actions[self.mesh.pipeline_rank]:
            if action.kind == "forward":
                flow.forward(action)
            elif action.kind == "backward":
                flow.backward(action)
            else:
                flow.weight(action)
        flow.post.finish()
        return found


class _Flow:
    """One run: activations that wait for their backward pass, and the messages."""

    def __init__(
        self,
        pipeline: Pipeline,
        actions: Sequence[Sequence[Action]],
        microbatches: Sequence[Microbatch],
        found: list[list[Tensor]],
        *,
        outputs: bool,
    ) -> None:
        self.pipeline, self.microbatches, self.found = pipeline, microbatches, found
        self.outputs = outputs
        kinds = {action.kind for action in actions[0]}
        self.training = "backward" in kinds
        self.waiting: dict[Action, tuple[list[Tensor], list[Tensor]]] = {}
        self.post = _Post(pipeline, actions)

    def forward(self, action: Action) -> None:
        pipeline, batch = self.pipeline, self.microbatches[action.microbatch]
        stage = pipeline.stages[action.stage]
        with torch.set_grad_enabled(self.training):
            if action.stage == 0:
                received: list[Tensor] = []
                chunks = stage.embed(batch.tokens, batch.places)
                # Frozen weights may make them, and what follows has gradients all the same.
                chunks = [x if x.requires_grad else x.requires_grad_(self.training) for x in chunks]
            else:
                message = _Message(False, action.stage - 1, action.microbatch)
                received = [x.requires_grad_(self.training) for x in self.post.receive(message)]
                chunks = received
            chunks = stage.blocks(chunks, batch.places)
            if action.stage == pipeline.count - 1:
                tell = stage.outputs if self.outputs else stage.losses
                with region(Region.HEAD):
                    chunks = tell(chunks, batch.targets, batch.places)
                self.found[action.microbatch] = [part.detach() for part in chunks]
        if action.stage < pipeline.count - 1:
            self.post.send(_Message(False, action.stage, action.microbatch), chunks)
        if self.training:
            self.waiting[Action("backward", action.stage, action.microbatch)] = received, chunks

    def backward(self, action: Action) -> None:
        received, chunks = self.waiting.pop(action)
        batch = self.microbatches[action.microbatch]
        if action.stage == self.pipeline.count - 1:
            gradients = [
                torch.full_like(x, p.scale) for x, p in zip(chunks, batch.places, strict=True)
            ]
        else:
            gradients = self.post.receive(_Message(True, action.stage + 1, action.microbatch))
        torch.autograd.backward(chunks, gradients)
        if received:
            message = _Message(True, action.stage, action.microbatch)
            self.post.send(message, [x.grad for x in received if x.grad is not None])

    def weight(self, action: Action) -> None:
        deferred = self.microbatches[action.microbatch].deferred
        with torch.no_grad():
            for product in deferred:
                product()
        deferred.clear()


class _Post:
    """Messages between ranks of the pipeline.

    Each direction between two ranks has a group of its own, in which messages are matched by their
    order alone, as NCCL does: a receiver asks for them in the order in which the sender's schedule
    sends them.
    """

    def __init__(self, pipeline: Pipeline, actions: Sequence[Sequence[Action]]) -> None:
        self._pipeline, self._mesh = pipeline, pipeline.mesh
        self._ranks, self._me = len(actions), pipeline.mesh.pipeline_rank
        self._turns = [{action: i for i, action in enumerate(taken)} for taken in actions]
        self._due: list[deque[_Message]] = [
            deque(m for a in taken if (m := self._sent_by(a)) and self._receiver(m) == self._me)
            for taken in actions
        ]
        self._asked: dict[_Message, tuple[Tensor, dist.Work | None]] = {}
        self._sent: list[tuple[_Message, Tensor, dist.Work | None]] = []

    def _sent_by(self, action: Action) -> _Message | None:
        if action.kind == "forward" and action.stage < self._pipeline.count - 1:
            return _Message(False, action.stage, action.microbatch)
        if action.kind == "backward" and action.stage > 0:
            return _Message(True, action.stage, action.microbatch)
        return None

    def _sender(self, message: _Message) -> int:
        return message.stage % self._ranks

    def _receiver(self, message: _Message) -> int:
        return (message.stage + (-1 if message.backward else 1)) % self._ranks

    def _channel(self, sender: int, receiver: int) -> dist.ProcessGroup:
        return self._mesh.channels[self._mesh.peer(sender), self._mesh.peer(receiver)]

    def send(self, message: _Message, chunks: Sequence[Tensor]) -> None:
        """Begin to send the tensors of all chunks as one."""
        parcel, to = torch.stack([x.detach() for x in chunks]), self._receiver(message)
        with peers():
            work = dist.isend(parcel, self._mesh.peer(to), group=self._channel(self._me, to))
        self._sent.append((message, parcel, work))

    def receive(self, message: _Message) -> list[Tensor]:
        """Wait for ``message``; the tensors by chunk."""
        sender = self._sender(message)
        with peers():
            while message not in self._asked:
                parcel = torch.empty(
                    self._pipeline.shape, dtype=self._pipeline.dtype, device=self._mesh.device
                )
                work = dist.irecv(
                    parcel, self._mesh.peer(sender), group=self._channel(sender, self._me)
                )
                self._asked[self._due[sender].popleft()] = parcel, work
            parcel, work = self._asked.pop(message)
            if work is not None:
                work.wait()
        self._forget(sender, self._turns[sender][message.action()])
        return list(parcel.unbind())

    def _forget(self, rank: int, turn: int) -> None:
        """Let go of what ``rank`` has used, as its having come to ``turn`` shows."""
        kept = []
        for message, parcel, work in self._sent:
            used = message.action(-1 if message.backward else 1)
            if self._receiver(message) == rank and self._turns[rank][used] <= turn:
                _complete(work)
            else:
                kept.append((message, parcel, work))
        self._sent = kept

    def finish(self) -> None:
        """Wait until everything sent has left."""
        for _, _, work in self._sent:
            _complete(work)
        self._sent = []


def _complete(work: dist.Work | None) -> None:
    if work is not None:
        with peers():
            work.wait()
