"""Become one of several ranks: launch them with torchrun, or join those that exist."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from megatron_core.errors import ConfigError, ReforgeError


def joined_ranks() -> int | None:
    """How many ranks an existing launcher (torchrun, or srun) started; None without one."""
    _adopt_slurm()
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else None


def is_first_rank() -> bool:
    """Whether this process is the first of its launcher, or has none."""
    return os.environ.get("RANK", "0") == "0"


def launch(ranks: int, module: str, arguments: Sequence[str]) -> None:
    """Run ``python -m module arguments`` on ``ranks`` ranks of this machine, as torchrun would.

    Raises:
        ReforgeError: a rank failed or was killed; it says which, and what to do.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        max_restarts=0,
    )
    try:
        # -P keeps the working directory off the path: a project may hold a folder of our names.
        elastic_launch(config, sys.executable)("-P", "-m", module, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise ReforgeError(
            f"rank {rank} ended with exit code {failure.exitcode} and the others were stopped: "
            "run the same command again to continue from the last checkpoint"
        ) from error


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
