"""The test cluster itself: what its hosts are to each other, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.bed.cluster import REPOSITORY, Cluster, wait_until

HOLD = """
import sys
from pathlib import Path
from tests.cluster.bed.cluster import Cluster
with Cluster(Path(sys.argv[1]), nodes=["n1"]):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_nothing_stays_when_who_started_it_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "up\n"
            networks = {network_of(pid) for pid in processes_of(folder)} - {network_of("self")}
            assert len(networks) == 3, "of the switch, ctl and n1"
        finally:
            started.kill()
    wait_until(lambda: not processes_of(folder) and not networks & all_networks(), "end of all processes")
    assert str(folder) not in Path("/proc/mounts").read_text()
    assert cluster.states(), "another one stands"


def test_hosts_reach_each_other_and_nobody_else(cluster: Cluster) -> None:
    assert cluster.run("n1", "ssh", "n2", "hostname").stdout == "n2\n"
    assert cluster.run("n1", "ip", "route", "get", "192.0.2.1", check=False).returncode != 0
    ask = "from megatrain.train.network import interface_for_gloo as i; print(i('n1'), i('n2'))"
    # Its own name is a loopback address there, as Debian has it.
    assert cluster.run("n1", "getent", "hosts", "n1").stdout.split()[0] == "127.0.1.1"
    assert cluster.run("n1", sys.executable, "-c", ask).stdout == "eth0 eth0\n"


def processes_of(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text(errors="replace").split("\0")
        except OSError:
            continue
        found += [path.parent.name for word in words if str(folder) in word]
    return found


def all_networks() -> set[str]:
    return {network_of(path.name) for path in Path("/proc").glob("[0-9]*")} - {""}


def network_of(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
