"""Two hosts, one of which is cut off in the middle of training and comes back.

    python -m benchmarks.hosts [--ranks 2]

Makes two hosts of network namespaces, joined by a bridge in a third, and trains a tiny recipe
over both with torchrun's rendezvous over TCP. In the middle the link of one host is cut. On the
other the watchdog names the ranks that are missing; on the lost one it says that it hears nobody.
Both torchruns stop their ranks and wait. When the link is mended they meet again, and training
goes on from the last checkpoint without anybody's help. Ends with exit code 1 if the root is not
that of an undisturbed run. Needs root.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import write_table
from tests.trainable import environment, root, run, saved_steps, wait_for_step, write_trainable

HANG_AFTER = 5


@dataclass(frozen=True)
class Hosts:
    """Network namespaces that stand for machines; host ``i`` has the address 10.77.0.(i + 1)."""

    prefix: str
    count: int

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def switch(self, host: int, state: str) -> None:
        """Turn the link of ``host`` ``up`` or ``down``, at the switch: the host sees nothing."""
        _ip("-n", f"{self.prefix}-switch", "link", "set", f"port{host}", state)

    def start(
        self, host: int, folder: Path, command: Sequence[str], log: Path, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Run ``command`` on ``host``, with a host name of its own; its output goes to ``log``."""
        name = f'hostname host{host}; exec "$@"'
        within = ("ip", "netns", "exec", f"{self.prefix}-{host}", "unshare", "--uts", "sh", "-c")
        with log.open("ab") as output:
            return subprocess.Popen(
                [*within, name, "sh", *command], cwd=folder, stdout=output, stderr=output,
                env=environment(GLOO_SOCKET_IFNAME="eth0", **variables),
            )  # fmt: skip


@contextmanager
def open_hosts(count: int) -> Iterator[Hosts]:
    """Machines on one network, which is gone at the end.

    Raises:
        OSError: this user or this kernel makes no network namespaces.
    """
    hosts = Hosts(f"reforge-{os.getpid()}", count)
    names = [f"{hosts.prefix}-switch", *(f"{hosts.prefix}-{host}" for host in range(count))]
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        switch = names[0]
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        for host, name in enumerate(names[1:]):
            port = f"port{host}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", name)
            _ip("-n", switch, "link", "set", port, "master", "bridge0")
            _ip("-n", switch, "link", "set", port, "up")
            _ip("-n", name, "addr", "add", f"{hosts.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield hosts
    finally:
        for name in made:
            for pid in _ip("netns", "pids", name).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", name)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def torchrun(hosts: Hosts, host: int, ranks: int, *command: str) -> list[str]:
    """The command line of one host: ``ranks`` ranks on each, a rendezvous at the first host."""
    return [
        "torchrun", f"--nnodes={hosts.count}", f"--nproc-per-node={ranks}", "--max-restarts=3",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts.address(0)}:29500", "--rdzv-id=training",
        f"--rdzv-conf=is_host={int(host == 0)},keep_alive_interval=1,keep_alive_max_attempt=3,"
        "read_timeout=10",
        f"--local-addr={hosts.address(host)}", "--no-python", *command,
    ]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What happened. Times are in seconds."""

    said: str
    cut_at: int
    resumed_from: int
    seconds_to_message: float
    seconds_to_finish: float
    root: str
    undisturbed: str


def cut_and_mend(folder: Path, ranks: int, cut_at: int, settings: Sequence[str]) -> Outcome:
    """The whole trial in ``folder``; ``cut_at`` is the step after which the link goes."""
    project, undisturbed = (write_trainable(folder / name) for name in ("project", "undisturbed"))
    code, errors = run(undisturbed, "reforge", "pretrain", "--layout=data=1", *settings)
    _expect(code == 0, errors)
    logs = [folder / "host0.log", folder / "host1.log"]
    command = ["reforge", "pretrain", f"--set=pretrain.hang_after={HANG_AFTER}", *settings]
    with open_hosts(2) as hosts:
        running = [
            hosts.start(host, project, torchrun(hosts, host, ranks, *command), logs[host])
            for host in range(2)
        ]
        wait_for_step(project, cut_at)
        hosts.switch(1, "down")
        cut = time.monotonic()
        said = _wait_for(r"ranks? [^\n]*missing: [^\n]*", logs[0])
        message = time.monotonic()
        _wait_for("the store of the rendezvous does not answer", logs[1])
        resumed_from = max(saved_steps(project))
        hosts.switch(1, "up")
        mended = time.monotonic()
        codes = [process.wait(timeout=300) for process in running]
        _expect(codes == [0, 0], "".join(log.read_text() for log in logs))
    return Outcome(
        said, cut_at, resumed_from, message - cut, time.monotonic() - mended, root(project),
        root(undisturbed),
    )  # fmt: skip


def _wait_for(pattern: str, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.05)
    raise TimeoutError(f"{log} never said {pattern}:\n{log.read_text()}")


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise RuntimeError(otherwise)


def main() -> None:
    """Run the trial and write its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ranks", type=int, default=2, help="Ranks of each host")
    arguments = parser.parse_args()
    settings = ["--set=pretrain.steps=200", "--set=pretrain.checkpoints.every=20"]
    with tempfile.TemporaryDirectory() as folder:
        found = cut_and_mend(Path(folder), arguments.ranks, 70, settings)
    write_table(
        "hosts", f"python -m benchmarks.hosts --ranks {arguments.ranks}",
        ["", ""],
        [
            ["hosts × ranks", f"2 × {arguments.ranks}"],
            ["link cut after step", str(found.cut_at)],
            ["said", found.said],
            ["seconds from the cut to that", f"{found.seconds_to_message:.1f} "
             f"(hang_after: {HANG_AFTER})"],
            ["continued from step", str(found.resumed_from)],
            ["seconds from the mend to the end", f"{found.seconds_to_finish:.1f}"],
            ["root", found.root[:16]],
            ["root of an undisturbed run", found.undisturbed[:16]],
        ],
    )  # fmt: skip
    if found.root != found.undisturbed:
        sys.exit("the roots differ")


if __name__ == "__main__":
    main()
