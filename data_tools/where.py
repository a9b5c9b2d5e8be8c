"""Where a preparation's work is done: processes of this machine, a SLURM job array, a Ray cluster.

Which of them it is changes nothing in what comes out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from data_tools.sections import Count, Section


class Local(Section):
    """Processes of this machine."""

    engine: Literal["local"] = "local"
    workers: Count = 0
    """Processes; 0: one a core."""


class Slurm(Section):
    """A job array for each stage, submitted and waited for; `output` must lie where all nodes see it."""

    engine: Literal["slurm"]
    partition: str | None = None
    account: str | None = None
    time: str = "12:00:00"
    """Limit of one task, as sbatch takes it."""
    memory_gib: Annotated[int, Field(gt=0)] = 4
    """Of one task."""
    at_once: Count = 0
    """Tasks that run at the same time; 0: as many as SLURM lets."""
    options: tuple[str, ...] = ()
    """More options of sbatch, e.g. ["--qos=low", "--constraint=ssd"]."""


class Ray(Section):
    """Tasks of a Ray cluster; `output` must lie where all nodes see it."""

    engine: Literal["ray"]
    address: str | None = None
    """As ray.init takes it, e.g. "auto"; null: a cluster of this machine alone, for a trial."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Of one task."""
    memory_gib: Annotated[float, Field(gt=0)] = 4.0
    """Of one task, for Ray's placing."""


ENGINES: Mapping[str, type[Section]] = MappingProxyType({"local": Local, "slurm": Slurm, "ray": Ray})


def _local_unless_named(value: Any) -> Any:
    return {"engine": "local", **value} if isinstance(value, dict) else value


Where = Annotated[
    Annotated[Local | Slurm | Ray, Field(discriminator="engine")], BeforeValidator(_local_unless_named)
]
