"""`megatrain train` in processes of its own, watched from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from tests.distributed.corpus import BASE

REPOSITORY = Path(__file__).resolve().parents[2]
# On a busy machine a start takes minutes; on a quiet one every wait here ends within seconds.
PATIENCE_S = 600
STEPS = 400


class Home:
    """A folder whose name has a space, where everything of the runs lies, temporary files too."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        tree = yaml.safe_load(BASE)
        tree["data"]["sources"] = [{"path": str(corpus)}]
        tree["train"] |= {"steps": STEPS}
        tree["checkpoint"] = {"every": 1000}
        tree["cluster"] = {"processes": 2}
        tree["resilience"] = {"collective_timeout_s": 60}
        self.config = folder / "a config.yaml"
        self.config.write_text(yaml.safe_dump(tree))

    def start(self, run: str, *overrides: str, environment: Mapping[str, str] | None = None) -> Started:
        """`megatrain train` in a new process; what it says goes to a file."""
        out = self.folder / f"{run}.out"
        with out.open("ab") as stream:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "megatrain",
                    "train",
                    str(self.config),
                    f"run.folder={run}",
                    *overrides,
                ],
                cwd=self.folder,
                env={
                    **os.environ,
                    "TMPDIR": str(self.temporary),
                    "PYTHONPATH": str(REPOSITORY),
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        return Started(process, self.folder / run, out, self.config)


class Started:
    def __init__(self, process: subprocess.Popen[bytes], run: Path, out: Path, config: Path) -> None:
        self.process, self.run, self.out = process, run, out
        self._arguments = (str(config), f"run.folder={run.name}")

    def until_steps(self, count: int) -> None:
        """Wait until so many steps of this run are recorded."""
        metrics = self.run / "metrics.jsonl"
        self._until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= count, "steps")

    def ended(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE_S)

    def ranks(self) -> list[int]:
        """Pids of this run's ranks, by rank."""
        found = {}
        for pid in processes_with(*self._arguments):
            variables = read(pid, "environ").split("\0")
            rank = [value.removeprefix("RANK=") for value in variables if value.startswith("RANK=")]
            if rank and "pretrain.py" in read(pid, "cmdline"):
                found[int(rank[0])] = pid
        return [found[rank] for rank in sorted(found)]

    def listening(self) -> set[str]:
        """Addresses on which this run's processes listen, as /proc/net writes them: `0100007F:1F90`."""
        sockets = set[str]()
        for pid in processes_with(*self._arguments):
            for descriptor in Path("/proc", str(pid), "fd").iterdir():
                with suppress(OSError):
                    sockets.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
        rows = [
            row.split()
            for name in ("tcp", "tcp6")
            for row in Path("/proc/net", name).read_text().splitlines()[1:]
        ]
        return {row[1] for row in rows if row[3] == "0A" and row[9] in sockets}

    def until_gone(self) -> None:
        """Wait until no process of this run lives: no launcher, no rank."""
        self._until(lambda: not processes_with(*self._arguments), "an end of all processes")

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            over = what == "steps" and self.process.poll() is not None and not condition()
            assert not over, f"ended with {self.process.poll()}\n{self.said()[-5000:]}"
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s\n{self.said()[-5000:]}"
            time.sleep(0.05)


def elsewhere(addresses: set[str]) -> set[str]:
    """Those that are not on the loopback: 127.0.0.0/8 or ::1, in the kernel's order of bytes."""
    inner = re.compile(r"[0-9A-F]{6}7F:|0{24}01000000:|0{16}FFFF0000[0-9A-F]{6}7F:")
    return {address for address in addresses if not inner.match(address)}


def read(pid: int, name: str) -> str:
    try:
        return Path("/proc", str(pid), name).read_text(errors="replace")
    except OSError:
        return ""


def processes_with(*arguments: str) -> list[int]:
    """Pids of living processes that were started with these arguments."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and set(arguments) <= {*read(int(path.name), "cmdline").split("\0")}
    ]


def shared_memory() -> set[str]:
    """Without semaphores of Python's multiprocessing: other programs on the machine make them too."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}
