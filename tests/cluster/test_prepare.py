"""Data preparation as job arrays of a real SLURM: what one process gives, also when the submitting one is
killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.prepare import prepare
from data_tools.where import Slurm
from tests.cluster.bed.cluster import REPOSITORY, Cluster, _child, wait_until
from tests.data_tools.test_engines import QUIET, config_in, files_of, with_engine

pytestmark = pytest.mark.timeout(3600)
PREPARE = (sys.executable, "-m", "megatrain", "prepare")


def test_job_arrays_give_what_one_process_gives(cluster: Cluster, tmp_path: Path) -> None:
    """The first submitter is killed while its array runs; the next one waits for that array and goes on."""
    config = config_in(tmp_path)
    alone = prepare(config, QUIET).folder
    where = Slurm(engine="slurm", partition="main", memory_gib=1, time="30", at_once=2, options=("--nice=1",))
    path = tmp_path / "slurm.yaml"
    path.write_text(with_engine(config, "slurm", where).model_dump_json())
    slow = {"MEGATRAIN_FAULT": "point=data.task,hit=1+,do=slow,seconds=4"}
    submitter = subprocess.Popen(
        [
            *cluster._enter("ctl"),
            f"--wd={REPOSITORY}",
            "env",
            *(f"{k}={v}" for k, v in slow.items()),
            *PREPARE,
            path,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    job = _until(tmp_path / ".slurm.work", "collect-*/job")
    wait_until(job.read_text, "number of the array")
    number = int(job.read_text())
    os.kill(_child(submitter.pid), signal.SIGKILL)  # nsenter waits for it, from outside
    submitter.wait()
    done = cluster.run("ctl", *PREPARE, path)
    assert "complete" in done.stderr and "Traceback" not in done.stderr
    assert files_of(tmp_path / "slurm") == files_of(alone)
    assert f"waiting for SLURM's array {number}" in done.stderr


def test_a_task_that_fails_is_told(cluster: Cluster, tmp_path: Path) -> None:
    config = config_in(tmp_path, 2)
    (tmp_path / "9.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 no gzip")
    path = tmp_path / "slurm.yaml"
    path.write_text(with_engine(config, "slurm", Slurm(engine="slurm", memory_gib=1)).model_dump_json())
    done = cluster.run("ctl", *PREPARE, path, check=False)
    assert done.returncode == 1 and "9.jsonl.gz" in done.stderr.splitlines()[-1], done.stderr
    path.write_text(
        with_engine(config, "slurm", Slurm(engine="slurm", partition="nowhere")).model_dump_json()
    )
    done = cluster.run("ctl", *PREPARE, path, check=False)
    assert done.returncode == 2 and "where: sbatch refused" in done.stderr.splitlines()[-1], done.stderr


def _until(folder: Path, pattern: str) -> Path:
    wait_until(lambda: list(folder.glob(pattern)), pattern)
    return next(folder.glob(pattern))
