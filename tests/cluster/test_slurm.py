"""Runs on a real SLURM of three nodes: whatever befalls them, they end as an undisturbed run does."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.bed.cluster import PATIENCE_S, REPOSITORY, Cluster, wait_until
from tests.distributed.corpus import BASE, curve
from tests.distributed.corpus import corpus as corpus  # a fixture

STEPS = 60
# Each step of rank 0 takes so long, so that what is done to a run comes in the middle of it.
SLOW = {"MEGATRAIN_FAULT": "point=step,rank=0,hit=1+,do=slow,seconds=0.1"}
LAUNCHED = re.compile(r"start \d+: 2 ranks on (\S+),")
pytestmark = pytest.mark.timeout(3600)


class Runs:
    """Runs of one config; each has a folder of its own."""

    def __init__(self, cluster: Cluster, folder: Path, corpus: Path) -> None:
        self.cluster, self.folder = cluster, folder
        tree = yaml.safe_load(BASE)
        tree["data"]["sources"] = [{"path": str(corpus)}]
        tree["train"]["steps"] = STEPS
        tree["checkpoint"] = {"every": 10}
        # A host that is lost holds its lease no longer than this, a cut link is noticed after that.
        tree["resilience"] = {"lease_s": 10, "collective_timeout_s": 10}
        tree["cluster"] = {"processes": 2, "launcher": "torchrun"}
        self.config = folder / "a config.yaml"
        self.config.write_text(yaml.safe_dump(tree))

    def submit(self, name: str, *options: object, **variables: object) -> Job:
        """`megatrain submit` on the controller, as a user calls it."""
        words = [
            "--nodes",
            2,
            "--ranks-per-node",
            1,
            "--time",
            30,
            *options,
            f"run.folder={self.folder / name}",
        ]
        told = self.cluster.run(
            "ctl", sys.executable, "-m", "megatrain", "submit", self.config, *words, variables=variables
        ).stdout
        number = re.match(r"job (\d+): 2 nodes, 2 ranks", told)
        assert number, told
        return Job(self.cluster, int(number[1]), self.folder / name)


class Job:
    def __init__(self, cluster: Cluster, number: int, run: Path) -> None:
        self.cluster, self.number, self.run = cluster, number, run
        self.restarts = 0
        """As many as the test has caused."""

    def until(self, **wanted: str) -> dict[str, str]:
        """Wait until SLURM says so of the job, and no longer than it can still come true."""
        told: dict[str, str] = {}

        def met() -> bool:
            told.update(self.cluster.job(self.number))
            if all(told.get(name) == value for name, value in wanted.items()):
                return True
            assert told["JobState"] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), "it has ended"
            assert int(told["Restarts"]) <= self.restarts, "it was put back into the queue"
            return False

        try:
            wait_until(met, f"{wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {told}\n{self.said()}\n{self.cluster.logs()}") from None
        return told

    def until_steps(self, count: int) -> None:
        """Wait until so many lines are in the run's metrics."""
        metrics = self.run / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= count, f"{count} steps")

    def until_requeued(self) -> None:
        self.restarts += 1
        self.until(JobState="PENDING", Restarts=str(self.restarts))

    def start_again(self) -> None:
        """Now, and not two minutes after it was requeued; within a second of that SLURM would fail it."""
        time.sleep(2)
        self.cluster.run("ctl", "scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def done(self) -> None:
        self.until(JobState="COMPLETED")

    def said(self) -> str:
        outputs = [*self.run.glob("logs/slurm-*.out")]
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in outputs)

    def nodes(self) -> list[str]:
        """Of each start."""
        return LAUNCHED.findall(self.said())

    def codes(self) -> list[int]:
        """That the ranks ended with, as far as the batch script lived to tell."""
        return [int(code) for code in re.findall(r"the ranks ended with (\d+)", self.said())]


@pytest.fixture(scope="module")
def runs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Runs:
    return Runs(cluster, tmp_path_factory.mktemp("slurm") / "", corpus)


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> dict[int, Any]:
    """The curve of two ranks on this machine, without SLURM and without a network."""
    folder = runs.folder / "undisturbed"
    subprocess.run(
        [sys.executable, "-m", "megatrain", "train", str(runs.config), f"run.folder={folder}"],
        cwd=REPOSITORY,
        check=True,
        timeout=PATIENCE_S,
    )
    told = curve(folder)
    assert list(told) == list(range(1, STEPS + 1))
    return told


def test_submitted_it_runs_to_its_end(runs: Runs, undisturbed: dict[int, Any]) -> None:
    job = runs.submit("submitted", "--partition", "main")
    job.done()
    assert curve(job.run) == undisturbed
    assert job.nodes() == ["n[1-2]"] and job.codes() == [0]
