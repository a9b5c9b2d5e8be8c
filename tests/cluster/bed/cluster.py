"""A real SLURM cluster of some nodes on one machine, which leaves nothing behind.

Every host is a set of Linux namespaces (network, mounts, name, IPC, processes) with its own sshd, munged and
slurmd; `ctl` has slurmctld. All of them lie within the namespaces of one process, `switch.sh`, whose input is
a pipe that this process holds: when it closes or this process dies, however, the kernel ends them all. The
network is not joined to the machine's. What is written lies under one folder, which all hosts share, as a
cluster shares its file system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTROLLER = "ctl"
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")
PATIENCE_S = 600.0
"""The machine may be ten times slower than usual; on a quiet one every wait ends within seconds."""


def why_not() -> str | None:
    """Why no cluster can stand here, after installing packages where that is possible; None if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    probe = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    if probe.returncode:
        return f"needs the right to make namespaces: {probe.stderr.strip()}"
    packages = subprocess.run(["bash", str(HERE / "packages.sh")], capture_output=True, text=True)
    if packages.returncode:
        return f"needs Debian packages: {' '.join(packages.stderr.split())[-500:]}"
    return None


def wait_until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {patience_s:.0f} s"
        time.sleep(0.1)


class Cluster:
    """Stands within `with`; hosts are `ctl` and the nodes."""

    def __init__(self, folder: Path, nodes: Sequence[str] = ("n1", "n2", "n3")) -> None:
        self.folder, self.nodes = folder, tuple(nodes)
        self._addresses = {
            host: f"10.88.0.{number}" for number, host in enumerate((CONTROLLER, *self.nodes), 1)
        }
        self._switch: subprocess.Popen[bytes] | None = None
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._write_files()
            self._start_switch()
            for host in self._addresses:
                self._start(host)
            for host in self._addresses:
                self._wait_for(host)
            self.until_idle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch everything off at once."""
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            self._switch.kill()  # its child, the first process of its namespaces, is killed with it
            for process in (self._switch, *self._hosts.values()):
                try:
                    process.wait(PATIENCE_S)
                finally:
                    process.kill()
            self._switch = None
        self._hosts.clear()

    def run(
        self, host: str, *command: object, variables: Mapping[str, object] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as a user who has just logged in, in the repository's folder."""
        settings = {
            "PATH": PATH,
            "HOME": self.folder / "home",
            "LANG": "C.UTF-8",
            "TMPDIR": "/run/tmp",
            "PYTHONPATH": REPOSITORY,
            "PYTHONDONTWRITEBYTECODE": 1,
            **(variables or {}),
        }
        environment = [f"{name}={value}" for name, value in settings.items()]
        done = subprocess.run(
            [*self._enter(host), f"--wd={REPOSITORY}", "env", "-i", *environment, *map(str, command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done

    @contextmanager
    def without_power(self, host: str) -> Iterator[None]:
        """Like a pulled plug: the peers are not told. Afterwards it is booted, and known to be idle."""
        # Deleted: its last unsent packets would keep the dead host's network, and so the cable, for minutes.
        self._at_switch("ip", "link", "delete", f"to-{host}")
        os.kill(self._pid(host), signal.SIGKILL)
        self._hosts.pop(host).wait(PATIENCE_S)
        (self.folder / "up" / host).unlink()
        try:
            yield
        finally:
            self._start(host)
            self._wait_for(host)
            self.until_idle()

    @contextmanager
    def without_cable(self, host: str) -> Iterator[None]:
        """Unplugged at the switch. Afterwards it is plugged in again, and known to be idle."""
        self._at_switch("ip", "link", "set", f"to-{host}", "down")
        try:
            yield
        finally:
            self._at_switch("ip", "link", "set", f"to-{host}", "up")
            # SLURM would look for a node that it found dead only some minutes later; a new slurmd says hello.
            self.run(host, "sh", "-c", 'kill "$(cat /run/slurmd.pid)"; exec slurmd -N "$1"', "-", host)
            self.until_idle()

    def until_idle(self) -> None:
        """Wait until all nodes are there and have nothing to do."""
        wait_until(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), "idle nodes")

    def states(self) -> dict[str, str]:
        """Of each node, as SLURM sees it; empty while nobody answers."""
        told = self.run(CONTROLLER, "sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
        return dict(line.split() for line in told.stdout.splitlines())

    def job(self, number: int) -> dict[str, str]:
        """What SLURM knows of a job."""
        told = self.run(CONTROLLER, "scontrol", "show", "job", "-o", number).stdout
        return dict(word.split("=", 1) for word in told.split() if "=" in word)

    def logs(self) -> str:
        """The ends of all daemons' logs, for people."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def _write_files(self) -> None:
        for name in ("slurm", "ssh/client", "log", "up", "state", "home"):
            (self.folder / name).mkdir(parents=True)
        hosts = "".join(f"{address} {host}\n" for host, address in self._addresses.items())
        (self.folder / "hosts").write_text(hosts)
        nodes = "\n".join(f"NodeName={node} NodeAddr={self._addresses[node]}" for node in self.nodes)
        text = (HERE / "slurm.conf").read_text()
        for name, value in {
            "BED": str(self.folder),
            "CONTROLLER": self._addresses[CONTROLLER],
            "NODES": nodes,
        }.items():
            text = text.replace(f"@{name}@", value)
        (self.folder / "slurm" / "slurm.conf").write_text(text)
        (self.folder / "slurm" / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        self._write_gpus()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self._write_ssh()

    def _write_gpus(self) -> None:
        """Devices that are counted like GPUs and are none: copies of /dev/null."""
        for number in range(2):
            os.mknod(self.folder / f"gpu{number}", 0o600 | 0o020000, os.makedev(1, 3))
        (self.folder / "slurm" / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")

    def _write_ssh(self) -> None:
        """One key for all hosts and one for who logs in: nobody is asked anything."""
        ssh = self.folder / "ssh"
        for name in ("id", "host"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(ssh / name)], check=True
            )
        names = ",".join([*self._addresses, *self._addresses.values()])
        (ssh / "known").write_text(f"{names} {(ssh / 'host.pub').read_text()}")
        (ssh / "client" / "bed.conf").write_text(
            f"IdentityFile {ssh}/id\nUserKnownHostsFile {ssh}/known\nBatchMode yes\nLogLevel ERROR\n"
            "ConnectTimeout 20\nServerAliveInterval 3\nServerAliveCountMax 3\n"
        )

    def _start_switch(self) -> None:
        self._switch = subprocess.Popen(
            [
                "unshare",
                *NAMESPACES,
                "--mount-proc",
                "--fork",
                "--kill-child=KILL",
                "bash",
                str(HERE / "switch.sh"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": PATH},
            start_new_session=True,
        )
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == b"ready\n", "the switch did not start"

    def _start(self, host: str) -> None:
        """Host and cable."""
        assert self._switch is not None
        with (self.folder / "log" / f"host-{host}").open("ab") as log:
            self._hosts[host] = subprocess.Popen(
                [
                    *("nsenter", "--target", str(_child(self._switch.pid)), *NAMESPACES, "--"),
                    *("unshare", *NAMESPACES, "--mount-proc", "--fork", "--kill-child=KILL"),
                    *("bash", str(HERE / "host.sh"), str(self.folder), host),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": PATH},
                start_new_session=True,
            )
        wait_until(lambda: self._pid(host, missing=0), f"process of {host}")
        pid = self._pid(host)
        end = ("peer", "name", "eth0", "netns", str(pid))
        self._at_switch("ip", "link", "add", f"to-{host}", "type", "veth", *end)
        self._at_switch("ip", "link", "set", f"to-{host}", "master", "switch", "up")
        inside = ("nsenter", "--target", str(pid), "--net", "--", "ip")
        for words in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("address", "add", f"{self._addresses[host]}/24", "dev", "eth0"),
        ):
            subprocess.run([*inside, *words], check=True)

    def _wait_for(self, host: str) -> None:
        up = self.folder / "up" / host

        def ready() -> bool:
            assert self._hosts[host].poll() is None, f"{host} did not come up\n{self.logs()}"
            return up.exists()

        wait_until(ready, f"host {host}")

    def _pid(self, host: str, missing: int | None = None) -> int:
        """Of the host's process 1: nsenter's child is unshare, and its child is that."""
        return _child(_child(self._hosts[host].pid, missing), missing)

    def _enter(self, host: str) -> list[str]:
        return ["nsenter", "--target", str(self._pid(host)), *NAMESPACES]

    def _at_switch(self, *command: str) -> None:
        assert self._switch is not None
        subprocess.run(
            ["nsenter", "--target", str(_child(self._switch.pid)), "--net", "--", *command], check=True
        )


def _child(pid: int, missing: int | None = None) -> int:
    """The only child of a process; `missing` where there is none, or an error."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else []
    if not children and missing is not None:
        return missing
    (child,) = children
    return int(child)
