"""The ``execution`` section: on what the tasks of the data stages run. It changes no bit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from megatron_core.config.section import Section


class LocalExecution(Section):
    """Processes on this machine."""

    kind: Literal["local"] = "local"
    workers: int | None = Field(None, ge=1, description="Processes; null takes every core")


class SlurmExecution(Section):
    """Job arrays of a Slurm cluster, which shares this folder with its nodes."""

    kind: Literal["slurm"]
    partition: str = Field(description="Where the jobs run")
    time: str = Field("24:00:00", description="Longest time of a task, HH:MM:SS")
    workers: int | None = Field(None, ge=1, description="Most tasks at once; null for all")
    cores_per_task: int = Field(1, ge=1, description="Cores of a task")
    gigabytes_per_core: int = Field(2, ge=1, description="Memory of a core, in GB")
    setup: str | None = Field(None, description="Shell line before each job, such as a module load")
    options: dict[str, str] = Field(
        default_factory=dict, description="Further options of sbatch, such as account or qos"
    )


class RayExecution(Section):
    """A Ray cluster, which shares this folder with its nodes."""

    kind: Literal["ray"]
    address: str = Field("auto", description="Of the cluster; `local` starts one here")
    workers: int | None = Field(None, ge=1, description="Most tasks at once; null for all")
    cores_per_task: int = Field(1, ge=1, description="Cores of a task")
    gigabytes_per_core: int = Field(2, ge=1, description="Memory of a core, in GB")


def _kind(value: Any) -> Any:
    return value.get("kind", "local") if isinstance(value, dict) else getattr(value, "kind", None)


ExecutionConfig = Annotated[
    Annotated[LocalExecution, Tag("local")]
    | Annotated[SlurmExecution, Tag("slurm")]
    | Annotated[RayExecution, Tag("ray")],
    Discriminator(_kind),
]
