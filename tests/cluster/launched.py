"""`megatrain train` in processes of its own, watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
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

    def until_gone(self) -> None:
        """Wait until no process of this run lives: no launcher, no rank."""
        self._until(lambda: not processes_with(*self._arguments), "an end of all processes")

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s\n{self.said()[-5000:]}"
            time.sleep(0.05)


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
