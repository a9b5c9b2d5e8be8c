"""`megatrain train` over a hostfile: a host that dies is left out at the next start, and the run ends as it
would have."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tests.cluster.bed.cluster import Cluster, wait_until
from tests.distributed.corpus import BASE, Play, curve, events, play_runs, run_config
from tests.distributed.corpus import corpus as corpus  # a fixture
from tests.distributed.ranks import run_ranks

STEPS = 40
SLOW = {"MEGATRAIN_FAULT": "point=step,rank=0,hit=1+,do=slow,seconds=0.2"}


@pytest.mark.timeout(3600)
def test_a_host_that_dies_is_left_out(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Two hosts, then one: the same samples, the same global batch, losses but for the order of summation."""
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=1\nn2 slots=1\n")
    tree = yaml.safe_load(BASE)
    tree["data"]["sources"] = [{"path": str(corpus)}]
    tree["train"]["steps"] = STEPS
    tree["checkpoint"] = {"every": 10}
    tree["resilience"] = {"lease_s": 10, "collective_timeout_s": 10, "restarts": {"wait_s": 1}}
    tree["cluster"] = {"hostfile": str(hosts)}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    run = tmp_path / "run"
    ends: list[subprocess.CompletedProcess[str]] = []

    def train() -> None:
        command = (sys.executable, "-m", "megatrain", "train", config, f"run.folder={run}")
        ends.append(cluster.run("ctl", *command, variables=SLOW, check=False))

    thread = threading.Thread(target=train)
    thread.start()
    metrics = run / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= 15, "15 steps")
    with cluster.without_power("n2"):
        thread.join()
    (end,) = ends
    assert end.returncode == 0, end.stdout + end.stderr
    assert "left out, they do not answer to ssh: n2" in end.stderr
    (restart,) = events(run, "restart")
    (resumed,) = events(run, "resume")
    assert resumed["step"] >= 10 and resumed["layout"]["world"] == 1
    assert f"megatrain: restart at step {restart['step']}: " in end.stderr

    play = Play(run_config(corpus, tmp_path / "undisturbed", f"train.steps={STEPS}", "checkpoint.every=10"))
    assert run_ranks(play_runs, 2, [play]) == [["done"]] * 2
    wanted, found = curve(tmp_path / "undisturbed"), curve(run)
    assert list(found) == list(wanted) == list(range(1, STEPS + 1))
    for step in wanted:
        assert found[step][2:] == wanted[step][2:]
        assert found[step][0] == pytest.approx(wanted[step][0], rel=1e-5)
