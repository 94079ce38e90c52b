"""Tasks as jobs of a cluster, through datatrove's executors for Slurm and Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_core.config.execution import RayExecution, SlurmExecution
from megatron_core.data.tasks.outcome import Job
from megatron_core.errors import MissingExtraError, ReforgeError

_LOOK_EVERY = 1.0  # seconds
_PATIENCE = 30.0  # seconds that a shared file system may take to show what a job wrote


@dataclass(frozen=True)
class Step:
    """The job as a step of a datatrove pipeline, whose rank is a place in ``numbers``."""

    job: Job
    numbers: Sequence[int]

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Do the task of ``rank``."""
        self.job.run_apart(self.numbers[rank])


def run_on_cluster(
    job: Job, numbers: Sequence[int], execution: SlurmExecution | RayExecution
) -> Iterator[int]:
    """Do the tasks ``numbers`` as jobs; yields each, in order, once it is done.

    Each attempt has a log folder of its own: datatrove takes a task for complete by its rank
    alone, and here the results say what is done.

    Raises:
        ReforgeError: the cluster refuses, or its jobs ended without results; what a task raised.
        MissingExtraError: Ray is not installed.
    """
    from loguru import logger

    logger.disable("datatrove")  # the bar and the errors say what matters; the logs have the rest
    logs = Path(tempfile.mkdtemp(prefix="attempt-", dir=job.folder))
    if execution.kind == "slurm":
        running = _submit_to_slurm(job, numbers, execution, logs)
    else:
        running = _submit_to_ray(job, numbers, execution, logs)
    gone: float | None = None
    for number in numbers:
        while not job.check(number):
            if not running():
                gone = gone or time.monotonic()
                if time.monotonic() - gone > _PATIENCE:
                    raise ReforgeError(
                        f"the {execution.kind} jobs ended without task {number} of "
                        f"{job.folder.name}: see {logs}, and run the stage again to do what is "
                        "missing"
                    )
            time.sleep(_LOOK_EVERY)
        yield number


def _submit_to_slurm(
    job: Job, numbers: Sequence[int], execution: SlurmExecution, logs: Path
) -> Callable[[], bool]:
    """Submit a job array; the answer says whether Slurm still knows of it."""
    if shutil.which("sbatch") is None:
        raise ReforgeError(
            "execution.kind is slurm, but there is no `sbatch` here: run on a login node of the "
            "cluster, or with --set execution.kind=local"
        )
    from datatrove.executor.slurm import SlurmPipelineExecutor

    executor = SlurmPipelineExecutor(
        [Step(job, numbers)], len(numbers), execution.time, execution.partition,
        cpus_per_task=execution.cores_per_task, mem_per_cpu_gb=execution.gigabytes_per_core,
        workers=execution.workers or -1, job_name=f"reforge-{job.folder.name}", qos=None,
        env_command=f"{execution.setup or ':'}\nexport PATH={Path(sys.executable).parent}:$PATH",
        sbatch_args=dict(execution.options), logging_dir=str(logs), with_srun=False,
    )  # fmt: skip
    executor.launch_merge_stats = lambda: None  # there are none to merge
    try:
        executor.run()
    except subprocess.CalledProcessError as error:
        raise ReforgeError(f"sbatch refused the jobs: {error}; the script is in {logs}") from error

    def running() -> bool:
        asked = subprocess.run(
            ["squeue", "--noheader", "--jobs", str(executor.job_id)],
            capture_output=True, check=False, text=True,
        )  # fmt: skip
        return bool(asked.stdout.strip())

    return running


def _submit_to_ray(
    job: Job, numbers: Sequence[int], execution: RayExecution, logs: Path
) -> Callable[[], bool]:
    """Start the tasks; the answer says whether they still run."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    from datatrove.executor.ray import RayPipelineExecutor

    address = None if execution.address == "local" else execution.address
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError as error:
        raise ReforgeError(
            f"there is no Ray cluster at execution.address = {execution.address}: {error}"
        ) from error
    executor = RayPipelineExecutor(
        [Step(job, numbers)], len(numbers), workers=execution.workers or -1,
        cpus_per_task=execution.cores_per_task, mem_per_cpu_gb=execution.gigabytes_per_core,
        logging_dir=str(logs),
    )  # fmt: skip
    thread = threading.Thread(target=executor.run, daemon=True)
    thread.start()
    return thread.is_alive
