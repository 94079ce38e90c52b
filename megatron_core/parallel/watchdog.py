"""A run that hangs ends itself and says which rank it waited for.

A rank that waits in a collective cannot say so: its main thread is away in the library. So each
rank has threads beside it. One reports over the store of the rendezvous, a few times a minute,
how far its rank has come and where it is; when no step has ended for too long it reads the
reports of all and compares.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from megatron_core.parallel.rendezvous import Store, private_store

logger = logging.getLogger(__name__)

EXIT_CODE = os.EX_UNAVAILABLE

# A thread whose innermost Python frame is in one of these waits for other ranks.
_WAITING = ("torch.distributed.", "megatron_core.collectives.", "megatron_core.parallel.")
_LIBRARIES = ("torch.", "numpy.", "concurrent.", "contextlib.", "threading.")
_NAMED = 8


@dataclass(frozen=True)
class Report:
    """What a rank last said of itself.

    Attributes:
        count: How many times it reported: it lives if this grows. Needs no common clock.
        step: The last step that ended.
        at: Wall clock of that, seconds since the epoch.
        waiting: Whether it is inside a collective.
        place: Where in our code it is, ``file:line``.
        host: The machine it runs on.
    """

    count: int
    step: int
    at: float
    waiting: bool
    place: str
    host: str


class Watchdog:
    """Ends this process when no step has ended for ``hang_after`` seconds.

    The ranks of a hung run end together, and one of them says why in one line of the log and ends
    with ``EXIT_CODE``. The launcher stops what is left, and restarts if it was told to.
    """

    def __init__(self, store: Store | None, rank: int, ranks: int, hang_after: float) -> None:
        """``store`` must be a connection that nothing else uses; None when the rank is alone."""
        self._store, self._rank, self._ranks = store, rank, ranks
        self._hang_after = hang_after
        self._interval = min(max(hang_after / 20, 0.2), 5.0)  # seconds between reports
        self._step, self._at, self._last = 0, time.time(), time.monotonic()
        self._count = 0
        self._judged = False
        self._launcher = _launcher()
        self._ended = threading.Event()

    @classmethod
    def join(cls, rank: int, ranks: int, hang_after: float) -> Watchdog:
        """One over the store of the launcher; all ranks call it."""
        if ranks == 1:
            return cls(None, rank, ranks, hang_after)
        return cls(private_store("watchdog", rank, ranks), rank, ranks, hang_after)

    def __enter__(self) -> Self:
        self.beat(self._step)
        self._publish()
        for work in (self._report, self._guard):
            threading.Thread(target=work, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def beat(self, step: int) -> None:
        """Step ``step`` has ended; call it too after other work that takes long."""
        self._step, self._at, self._last = step, time.time(), time.monotonic()

    def _late(self, by: float = 0.0) -> bool:
        return time.monotonic() - self._last > self._hang_after + by and not self._ended.is_set()

    def _report(self) -> None:
        """Report until the end, or judge when no step ends."""
        while not self._ended.wait(self._interval):
            # A store that is gone raises; the guard speaks of it if no step ends.
            with suppress(RuntimeError):
                self._publish()
                if self._late():
                    self._judge()

    def _judge(self) -> None:
        """Watch the reports of all for a while; if there is still no step, end with them."""
        before = self._read()
        for _ in range(4):
            time.sleep(self._interval)
            self._publish()
        after = self._read()
        if not self._late():
            return
        self._judged = True
        sentence = judge(before, after, self._ranks)
        if self._store is None or self._store.add("speaker", 1) == 1:
            others = self._ranks - 1 - len(silent_ranks(before, after, self._ranks))
            self._wait(lambda store: store.add("silenced", 0) >= others)
            self._stop(sentence)
        # With the first of us that ends the others' collectives fail, each with words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        self._store.add("silenced", 1)
        self._wait(lambda store: store.check(["spoken"]))
        os._exit(EXIT_CODE)

    def _wait(self, condition: Callable[[Store], bool]) -> None:
        """Wait for other ranks, which may be somewhat behind in judging."""
        given_up = time.monotonic() + 6 * self._interval
        with suppress(RuntimeError):  # the store may go with the rank that spoke
            while self._store is not None and time.monotonic() < given_up:
                if condition(self._store):
                    return
                time.sleep(0.02)

    def _stop(self, sentence: str) -> NoReturn:
        """Speak, let the other ranks know, and end."""
        logger.error(
            "%s; stopping: run the same command again to continue from the last checkpoint",
            sentence,
        )
        if self._store is not None:
            # In a thread, since the process must end whether or not the store takes it.
            note = threading.Thread(target=self._store.set, args=("spoken", ""), daemon=True)
            note.start()
            note.join(0.5)
        # The main thread cannot be woken, so nothing of it is unwound.
        os._exit(EXIT_CODE)

    def _guard(self) -> None:
        """End the process if its launcher is gone, or if no step ends and the store is silent.

        Time in which the process itself was stopped is forgiven.
        """
        woken = time.monotonic()
        while not self._ended.wait(self._interval):
            asleep = time.monotonic() - woken - self._interval
            if asleep > self._interval + 2:
                self._last += asleep
            woken = time.monotonic()
            if _launcher() != self._launcher and not self._ended.is_set():
                # Whoever runs the command again must not meet us at work on the same run.
                logger.error("rank %d stops: its launcher is gone", self._rank)
                os._exit(EXIT_CODE)
            if not self._judged and self._late(by=10 * self._interval):
                self._stop(
                    f"no step has ended on rank {self._rank} for {woken - self._last:.0f} s after "
                    f"step {self._step}, and the store of the rendezvous does not answer: the "
                    "launcher or rank 0 is missing"
                )
            if self._late(by=20 * self._interval):
                os._exit(EXIT_CODE)

    def _publish(self) -> None:
        self._count += 1
        waiting, place = _whereabouts()
        mine = Report(self._count, self._step, self._at, waiting, place, platform.node())
        if self._store is not None:
            self._store.set(str(self._rank), json.dumps(asdict(mine)))
        self._mine = mine

    def _read(self) -> dict[int, Report]:
        if self._store is None:
            return {self._rank: self._mine}
        keys = [str(rank) for rank in range(self._ranks)]
        here = [key for key in keys if self._store.check([key])]
        return {
            int(key): Report(**json.loads(content))
            for key, content in zip(here, self._store.multi_get(here), strict=True)
        }


def silent_ranks(
    before: Mapping[int, Report], after: Mapping[int, Report], ranks: int
) -> list[int]:
    """Those that reported nothing between two readings."""
    return [
        r for r in range(ranks)
        if r not in after or (r in before and after[r].count == before[r].count)
    ]  # fmt: skip


def judge(before: Mapping[int, Report], after: Mapping[int, Report], ranks: int) -> str:
    """Which ranks the others wait for, in a sentence, from reports some time apart.

    First those that are silent; else those that are in no collective; else those that are steps
    behind; else all wait for each other.
    """
    if silent := silent_ranks(before, after, ranks):
        return _silence(silent, after)
    most = max(report.step for report in after.values())
    behind = [r for r in range(ranks) if after[r].step < most]
    busy = [r for r in range(ranks) if not after[r].waiting]
    missing = [r for r in busy if r in behind] or busy or behind
    since = max(0.0, time.time() - max(report.at for report in after.values()))
    if not missing:
        places = ", ".join(f"rank {r} at {after[r].place}" for r in range(min(ranks, _NAMED)))
        return f"all ranks wait for each other: no step for {since:.0f} s, {places}"
    first = after[missing[0]]
    return (
        f"{_named(missing, after)} {'do' if len(missing) > 1 else 'does'} not go on: no step for "
        f"{since:.0f} s after step {first.step}, at {first.place} (a larger hang_after waits "
        "longer)"
    )


def _silence(silent: Sequence[int], reports: Mapping[int, Report]) -> str:
    verb = "are" if len(silent) > 1 else "is"
    seen = [reports[rank] for rank in silent if rank in reports]
    if not seen:
        return f"{_named(silent, reports)} {verb} missing: never seen"
    last = max(seen, key=lambda report: report.at)
    since = max(0.0, time.time() - last.at)
    return (
        f"{_named(silent, reports)} {verb} missing: last seen after step {last.step}, "
        f"{since:.0f} s ago"
    )


def _named(ranks: Sequence[int], reports: Mapping[int, Report]) -> str:
    names = [
        f"{rank} ({reports[rank].host})" if rank in reports else str(rank)
        for rank in ranks[:_NAMED]
    ]
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(names)}{more}"


def _launcher() -> int | None:
    """Process id of torchrun, or of ``reforge`` that started this rank; None without one."""
    elastic = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return os.getppid() if elastic else None


def _whereabouts() -> tuple[bool, str]:
    """Whether a thread of this process waits in a collective, and where in our code it is."""
    own = {thread.ident for thread in threading.enumerate() if thread.name == "watchdog"}
    frames = {
        ident: frame for ident, frame in sys._current_frames().items() if ident not in own
    }  # fmt: skip
    waiting = [frame for frame in frames.values() if _module(frame).startswith(_WAITING)]
    main = frames.get(threading.main_thread().ident or 0)
    frame = waiting[0] if waiting else main
    return bool(waiting), "nowhere" if frame is None else _place(frame)


def _place(frame: FrameType) -> str:
    """``file:line`` of the innermost frame outside the libraries."""
    shown: FrameType | None = frame
    while shown is not None and _module(shown).startswith(_LIBRARIES):
        shown = shown.f_back
    shown = shown or frame
    return f"{'/'.join(Path(shown.f_code.co_filename).parts[-3:])}:{shown.f_lineno}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")) + "."
