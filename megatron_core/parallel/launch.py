"""Become one of several ranks: launch them with torchrun, or join those that exist."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from megatron_core.errors import ConfigError, Interrupted, ReforgeError
from megatron_core.parallel.interrupts import Interrupts

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.api import SubprocessContext

logger = logging.getLogger(__name__)


def joined_ranks() -> int | None:
    """How many ranks an existing launcher (torchrun, or srun) started; None without one."""
    _adopt_slurm()
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None


def is_first_rank() -> bool:
    """Whether this process is the first of its launcher, or has none."""
    return os.environ.get("RANK", "0") == "0"


def launch(ranks: int, module: str, arguments: Sequence[str], *, restarts: int = 0) -> int:
    """Run ``python -m module arguments`` on ``ranks`` ranks of this machine, as torchrun would.

    SIGTERM and SIGUSR1 are handed to the ranks, which save at the end of their step; there is no
    limit but the sender's on how long that takes. Other signals give them half a minute. Ranks
    that were killed or that hung are started again up to ``restarts`` times.

    Returns:
        The exit code for this process: 0, or that of a rank which has said why it ended and that
        the same command continues.

    Raises:
        Interrupted: a signal ended the ranks before they could save anything.
        ReforgeError: a rank failed or was killed; it says which, and what to do.
    """
    from megatron_core.parallel.watchdog import EXIT_CODE as HANG

    # Its notices on every signal and exit code are for its own developers.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for attempt in range(restarts + 1):
        end = _run_ranks(ranks, module, arguments, attempt)
        if end.code in {0, Interrupted.exit_code}:
            return end.code
        if end.signal is not None:
            raise Interrupted(
                f"stopped by {end.signal.name}: run the same command again to continue from the "
                "last checkpoint"
            )
        if attempt < restarts and (end.code == HANG or end.code < 0):
            logger.warning("%s: restart %d of %d", end, attempt + 1, restarts)
        elif end.code == HANG:
            return end.code
        else:
            break
    raise ReforgeError(
        f"{end} and the others were stopped: run the same command again to continue from the last "
        "checkpoint"
    )


@dataclass(frozen=True)
class _End:
    """How a group of ranks ended.

    ``code`` is 0, the exit code of ``rank``, which failed first, or minus the number of the signal
    that killed it; ``signal`` is the one that asked this process to end.
    """

    code: int = 0
    rank: int = 0
    signal: signal.Signals | None = None

    def __str__(self) -> str:
        if self.code < 0:
            return f"rank {self.rank} was killed by {signal.Signals(-self.code).name}"
        return f"rank {self.rank} ended with exit code {self.code}"


def _run_ranks(ranks: int, module: str, arguments: Sequence[str], attempt: int) -> _End:
    """Start the ranks once and wait for their end; none is left behind."""
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        start_processes,
    )

    # The store is kept here rather than by the first rank, which may be the one that hangs.
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    shared = {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
    }  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: signal.Signals) -> None:
        for process in started:
            process.send_signal(signal.SIGTERM)

    with Interrupts(forward) as interrupts, _signals_of_torch():
        context = cast(
            "SubprocessContext",
            start_processes(
                name="rank",
                entrypoint=sys.executable,
                # -P keeps the working directory off the path: it may hold folders of our names.
                args=dict.fromkeys(range(ranks), ("-P", "-m", module, *arguments)),
                envs={r: {**shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(ranks)},
                logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
            ),
        )
        asked = None
        try:
            started.extend(handler.proc for handler in context.subprocess_handlers.values())
            if interrupts.received is not None:
                forward(interrupts.received)
            result = context.wait(period=0.1)
        except SignalException as stopped:
            asked = stopped.sigval
            context.close(signal.SIGTERM)
            result = context.wait(0)
        finally:
            context.close(signal.SIGKILL)
    failures = result.failures if result is not None else {}
    return _first_failure(failures, asked or interrupts.received)


def _first_failure(failures: Mapping[int, Any], asked: signal.Signals | None) -> _End:
    """Which rank failed first, as far as one second tells; the others failed because of it."""
    if not failures:
        return _End(signal=asked)
    first = min(failure.timestamp for failure in failures.values())
    consequences = [-signal.SIGTERM, 1, -signal.SIGKILL]
    rank, failure = min(
        ((r, f) for r, f in failures.items() if f.timestamp <= first + 1),
        key=lambda item: (
            # What a rank does when it stops or another is gone says less than anything else.
            -consequences.index(item[1].exitcode) if item[1].exitcode in consequences else -3,
            item[0],
        ),
    )
    return _End(failure.exitcode, rank, asked)


@contextmanager
def _signals_of_torch() -> Iterator[None]:
    """Let torch turn the terminal's signals into exceptions, and put the handlers back."""
    names = ("SIGINT", "SIGHUP", "SIGQUIT")
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(names)
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    try:
        yield
    finally:
        del os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"]
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _adopt_slurm() -> None:
    """Describe the tasks of ``srun`` in the variables that torch reads.

    ``srun`` runs a command once per task; the first node of the list keeps the rendezvous.
    """
    env = os.environ
    if "RANK" in env or int(env.get("SLURM_NTASKS", "1")) < 2 or "SLURM_PROCID" not in env:
        return
    env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_NTASKS"]
    env["LOCAL_RANK"] = env.get("SLURM_LOCALID", "0")
    env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000))
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = _first_host(env.get("SLURM_STEP_NODELIST", ""))


def _first_host(nodes: str) -> str:
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot tell the first host of SLURM_STEP_NODELIST={nodes!r}: set MASTER_ADDR"
        ) from error
    return hosts.stdout.split()[0]
