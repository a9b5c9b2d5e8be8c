"""What runs the tasks of a stage: processes of this machine, a SLURM job array, a Ray cluster.

They run the same thing, `task.run((stage, number))`, which reads all that it needs from the stage's folder
and leaves its result there; the scheduling is theirs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from data_tools.progress import Progress
from data_tools.task import error_of, is_done, run, sweep
from data_tools.where import Local, Ray, Slurm, Where
from data_tools.workers import Map, pool
from megatrain.errors import FailedWork, UserError, install, require

POLL_S = 2.0
# SLURM's own default; a larger stage is submitted as several arrays, one after the other.
MAX_ARRAY = 1000


class Engine(Protocol):
    """Runs tasks of a stage by their numbers; gives each number when its task is done, in any order.

    Raises what a task raised (UserError, FailedWork), and FailedWork where one ended without a result.
    """

    def __call__(self, stage: Path, numbers: Sequence[int]) -> Iterator[int]: ...


@contextmanager
def engine(where: Where, progress: Progress) -> Iterator[Engine]:
    """The engine of a config section, ready for several stages. Raises UserError where it is not there."""
    match where:
        case Local():
            with pool(where.workers) as over:
                yield lambda stage, numbers: _local(over, stage, numbers)
        case Slurm():
            require(
                shutil.which("sbatch") is not None,
                "where.engine=slurm: no sbatch on this machine; start on a login node, or use engine=local",
            )
            yield lambda stage, numbers: _slurm(where, progress, stage, numbers)
        case Ray():
            with _ray(where) as ready:
                yield ready


def _local(over: Map, stage: Path, numbers: Sequence[int]) -> Iterator[int]:
    sweep(stage)
    return over(run, [(str(stage), number) for number in numbers])


# --- SLURM ---


def _slurm(where: Slurm, progress: Progress, stage: Path, numbers: Sequence[int]) -> Iterator[int]:
    """An array that was submitted before and still runs is waited for, not submitted again."""
    for first in range(0, len(numbers), MAX_ARRAY):
        part = numbers[first : first + MAX_ARRAY]
        if (job := _running(stage)) is not None:
            progress.note(f"{stage.name}: waiting for SLURM's array {job}, which is in the queue")
        else:
            sweep(stage)  # no task of it is running
            job = _submit(where, stage, part)
            progress.note(f"{stage.name}: SLURM's array {job}, {len(part):,} tasks")
        yield from _await(job, stage, part)


def _running(stage: Path) -> str | None:
    """The array that the stage's folder names, if SLURM still has it."""
    try:
        job = (stage / "job").read_text().strip()
    except FileNotFoundError:
        return None
    return job if job.isdigit() and _in_queue(job) else None


def _submit(where: Slurm, stage: Path, numbers: Sequence[int]) -> str:
    limit = f"%{where.at_once}" if where.at_once else ""
    logs = stage / "logs"
    logs.mkdir(exist_ok=True)
    command = [
        *("sbatch", "--parsable", f"--job-name=prepare-{stage.name}", f"--time={where.time}"),
        *(f"--mem={where.memory_gib}G", "--ntasks=1", "--cpus-per-task=1", "--requeue"),
        f"--array={_ranges(numbers)}{limit}",
        f"--output={logs}/%a.log",
        *([f"--partition={where.partition}"] if where.partition else []),
        *([f"--account={where.account}"] if where.account else []),
        *where.options,
        # sbatch copies this file; what it runs comes as arguments, and no shell puts them together.
        str(Path(__file__).with_name("task.sh")),
        *(sys.executable, str(stage)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    require(
        done.returncode == 0,
        f"where: sbatch refused: {' '.join(done.stderr.split()) or done.returncode}; mend section `where`",
    )
    job = done.stdout.strip().partition(";")[0]
    (stage / "job").write_text(job)
    return job


def _await(job: str, stage: Path, numbers: Sequence[int]) -> Iterator[int]:
    """Give tasks as their results appear, until all have or the array has left the queue."""
    left = set(numbers)
    while left:
        gone = not _in_queue(job)  # asked before the results are looked at: what ended until then is seen
        for number in sorted(left):
            if (error := error_of(stage, number)) is not None:
                subprocess.run(["scancel", job], capture_output=True)
                raise error
            if is_done(stage, number):
                left.discard(number)
                yield number
        if gone and left:
            logs = stage / "logs" / f"{min(left)}.log"
            raise FailedWork(
                f"SLURM's array {job} has ended and {len(left)} tasks left no result (see {logs}); "
                "run the same command again to go on"
            )
        if left:
            time.sleep(POLL_S)


def _in_queue(job: str) -> bool:
    told = subprocess.run(["squeue", "-h", "-j", job, "-o", "%i"], capture_output=True, text=True)
    # squeue does not know a job that has long ended, and says so by its exit code.
    if told.returncode and "Invalid job id" not in told.stderr:
        return True  # the controller does not answer: it may be busy, and the results tell
    return bool(told.stdout.strip())


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2,5"."""
    ends: list[list[int]] = []
    for number in sorted(numbers):
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in ends)


# --- Ray ---


@contextmanager
def _ray(where: Ray) -> Iterator[Engine]:
    try:
        import ray
    except ImportError:
        raise UserError(f"where.engine=ray: Ray is not installed: {install('ray')}") from None
    try:
        ray.init(address=where.address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"where.address ({where.address}): no Ray cluster there: {error}") from None
    memory = int(where.memory_gib * 2**30) if where.address else 0
    remote = ray.remote(num_cpus=where.cpus, memory=memory, max_retries=3)(run)

    def ready(stage: Path, numbers: Sequence[int]) -> Iterator[int]:
        sweep(stage)
        waiting = [remote.remote((str(stage), number)) for number in numbers]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, UserError | FailedWork) else error) from None
            except ray.exceptions.RayError as error:
                raise FailedWork(
                    f"Ray: {' '.join(str(error).split())[:500]}; run the command again"
                ) from None

    try:
        yield ready
    finally:
        ray.shutdown()
