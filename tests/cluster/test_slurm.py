"""Runs on a real SLURM of three nodes: whatever befalls them, they end as an undisturbed run does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.bed.cluster import PATIENCE_S, REPOSITORY, Cluster, wait_until
from tests.distributed.corpus import BASE, curve, events, saved_steps
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
            said = self.said()[-5000:]
            raise AssertionError(f"{error}: {told}\n{said}\n{self.cluster.logs()}") from None
        return told

    def until_steps(self, count: int) -> None:
        """Wait until so many lines are in the run's metrics."""
        metrics = self.run / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= count, f"{count} steps")

    def until_requeued(self) -> None:
        self.restarts += 1
        self.until(JobState="PENDING", Restarts=str(self.restarts), Reason="BeginTime")

    def start_again(self) -> None:
        """Now, and not two minutes after it was requeued; within a second of that SLURM would fail it."""
        time.sleep(2)
        self.cluster.run("ctl", "scontrol", "update", f"JobId={self.number}", "StartTime=now")

    def done(self) -> None:
        self.until(JobState="COMPLETED")

    def said(self) -> str:
        """The output of the batch script and the ranks."""
        output = self.run / "logs" / f"slurm-{self.number}.out"
        return output.read_text(errors="replace") if output.exists() else ""

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
    done = subprocess.run(
        [sys.executable, "-m", "megatrain", "train", str(runs.config), f"run.folder={folder}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    told = curve(folder)
    assert list(told) == list(range(1, STEPS + 1))
    return told


def test_submitted_it_runs_to_its_end(runs: Runs, undisturbed: dict[int, Any]) -> None:
    job = runs.submit("submitted", "--partition", "main")
    job.done()
    assert curve(job.run) == undisturbed
    assert job.nodes() == ["n[1-2]"] and job.codes() == [0]


def test_preempted_it_saves_and_goes_on(runs: Runs, undisturbed: dict[int, Any]) -> None:
    job = runs.submit("preempted", "--partition", "main", **SLOW)
    job.until_steps(15)
    options = ("--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null")
    runs.cluster.run("ctl", "sbatch", *options, "--wrap=true")
    job.until_requeued()
    assert job.codes() == [75]
    (step,) = [event["step"] for event in events(job.run, "preempt")]
    assert 15 <= step < STEPS and saved_steps(job.run)[-1] == step
    runs.cluster.until_idle()
    job.start_again()
    job.done()
    assert [event["step"] for event in events(job.run, "resume")] == [step]
    assert curve(job.run) == undisturbed
    assert len((job.run / "metrics.jsonl").read_text().splitlines()) == STEPS, "a step was computed twice"


def test_a_node_without_power_is_left_behind(runs: Runs, undisturbed: dict[int, Any]) -> None:
    """The first node of the job: with the batch script, rank 0 and the lease."""
    job = runs.submit("unplugged", **SLOW)
    job.until_steps(15)
    with runs.cluster.without_power("n1"):
        job.until_requeued()
        job.start_again()
        job.done()
    assert job.nodes() == ["n[1-2]", "n[2-3]"] and job.codes() == [0]
    (resumed,) = [event["step"] for event in events(job.run, "resume")]
    assert resumed >= 10
    assert curve(job.run) == undisturbed


def test_a_cut_link_is_noticed_on_both_sides(runs: Runs, undisturbed: dict[int, Any]) -> None:
    """A collective does not return: the ranks give up, and the job goes on without the node."""
    job = runs.submit("cut", **SLOW)
    job.until_steps(15)
    with runs.cluster.without_cable("n2"):
        cut = time.monotonic()
        for rank in (0, 1):
            log = job.run / "logs" / f"rank-{rank:04d}.log"
            wait_until(lambda log=log, rank=rank: f"rank {rank} failed" in log.read_text(), f"end of {log}")
        print(f"both ranks gave up {time.monotonic() - cut:.1f} s after the cut")
        job.until_requeued()
        print(f"in the queue again {time.monotonic() - cut:.1f} s after the cut")
        job.start_again()
        job.done()
    assert job.nodes() == ["n[1-2]", "n[1,3]"]
    assert curve(job.run) == undisturbed


def test_deepspeed_over_a_hostfile(runs: Runs, undisturbed: dict[int, Any]) -> None:
    """Two hosts, pdsh and ssh, and no SLURM."""
    hosts = runs.folder / "hosts"
    hosts.write_text("n1 slots=1\nn2 slots=1\n")
    run = runs.folder / "hostfile"
    launcher = (
        "-m",
        "deepspeed.launcher.runner",
        "--hostfile",
        hosts,
        "--launcher",
        "pdsh",
        "--no_local_rank",
    )
    program = (REPOSITORY / "launch" / "pretrain.py", "--config", runs.config, f"run.folder={run}")
    runs.cluster.run("ctl", sys.executable, *launcher, *program)
    assert curve(run) == undisturbed


@pytest.mark.parametrize("launcher", ["slurm", "pdsh"])
def test_deepspeed_in_a_job_is_preempted(launcher: str, runs: Runs, undisturbed: dict[int, Any]) -> None:
    run = runs.folder / f"deepspeed-{launcher}"
    (run / "logs").mkdir(parents=True)
    options = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", "--time=30")
    told = runs.cluster.run(
        *("ctl", "sbatch", "--parsable", *options, f"--output={run}/logs/slurm-%j.out"),
        *("slurm/pretrain-deepspeed.sbatch", f"run.folder={run}"),
        variables={"CONFIG": runs.config, "PYTHON": sys.executable, "LAUNCHER": launcher, **SLOW},
    )
    job = Job(runs.cluster, int(told.stdout), run)
    job.until_steps(15)
    runs.cluster.run("ctl", "scancel", "--signal=USR1", job.number)
    job.until_requeued()
    runs.cluster.run("ctl", "scancel", job.number)
    assert job.codes() == [75] and not (run / "STOP").exists()
    told = curve(run)
    assert saved_steps(run)[-1] == len(told) >= 15
    assert told == {step: undisturbed[step] for step in told}


# Stands for Python where nothing is computed: the n-th start of ranks ends with the n-th code of a file.
RANKS = """#!/usr/bin/env bash
case "$1" in
    -c) echo "$CHAIN_FOLDER/run" ;;
    -m) ;;
    *) echo "$SLURM_JOB_ID" >>"$CHAIN_FOLDER/started"
       exit "$(sed -n "$(wc -l <"$CHAIN_FOLDER/started")p" "$CHAIN_FOLDER/codes")" ;;
esac
"""


def test_a_chain_goes_on_until_it_is_done(cluster: Cluster, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(RANKS)
    python.chmod(0o755)
    (tmp_path / "codes").write_text("75\n1\n0\n")
    options = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1", "--time=5")
    told = cluster.run(
        *(
            "ctl",
            "bash",
            "slurm/chain.sh",
            5,
            *options,
            f"--output={tmp_path}/%j.out",
            "slurm/pretrain.sbatch",
        ),
        variables={"PYTHON": python, "CHAIN_FOLDER": tmp_path},
    )
    jobs = told.stdout.split()
    assert len(jobs) == 5
    wait_until(lambda: cluster.job(int(jobs[-1]))["JobState"] == "CANCELLED", "end of the chain")
    states = [cluster.job(int(job))["JobState"] for job in jobs]
    assert states == ["FAILED", "FAILED", "COMPLETED", "CANCELLED", "CANCELLED"]
    assert (tmp_path / "started").read_text().split() == jobs[:3]


def test_data_is_prepared_by_a_job(cluster: Cluster, tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(
        "".join(json.dumps({"text": f"text {n} " + "words and more " * 20}) + "\n" for n in range(200))
    )
    config = tmp_path / "data.yaml"
    tokenizer = {"vocab_size": 300}
    tree = {
        "output": str(tmp_path / "data"),
        "sources": {"raw": {"files": [str(raw)]}},
        "tokenizer": tokenizer,
    }
    config.write_text(yaml.safe_dump(tree))
    told = cluster.run(
        *("ctl", "sbatch", "--parsable", "--cpus-per-task=2", f"--output={tmp_path}/%j.out"),
        *("slurm/prepare.sbatch", "seed=3"),
        variables={"PYTHON": sys.executable, "CONFIG": config},
    )
    job = int(told.stdout)
    wait_until(lambda: cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), "end")
    assert cluster.job(job)["JobState"] == "COMPLETED", (tmp_path / f"{job}.out").read_text()
    assert (tmp_path / "data" / "train" / "manifest.json").exists()
