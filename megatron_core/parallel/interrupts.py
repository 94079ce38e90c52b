"""Signals that ask for an end: noted at once, answered at the end of the step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from megatron_core.errors import PeerLostError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupts:
    """Notes SIGTERM, and SIGUSR1 as ``sbatch --signal`` may send, for the length of the block.

    The handler only sets a flag, so a step is never torn: whoever holds the object asks
    ``requested`` where it can stop, lets all ranks agree, saves, and raises ``Interrupted``.
    The handlers that were there before are put back at the end, and meet the signal after all if
    the block ended because another rank is gone. Outside the main thread Python
    allows no handlers, and nothing is ever requested.
    """

    def __init__(self, forward: Callable[[signal.Signals], None] | None = None) -> None:
        """``forward`` is called with each signal, to hand it on to other processes."""
        self.received: signal.Signals | None = None
        self._forward = forward
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process was asked to end."""
        return self.received is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be read.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}
        if self.received is not None and isinstance(error, PeerLostError):
            # A launcher ends the ranks when one fails. Nothing can be saved without it: obey.
            os.kill(os.getpid(), self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if self._forward is not None:
            self._forward(self.received)
