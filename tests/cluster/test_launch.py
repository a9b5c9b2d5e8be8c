"""`megatrain train` as users start it: two ranks by a launcher, interrupted, killed, gone on with."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.distributed.corpus import BASE, curve, events, saved_steps
from tests.distributed.corpus import corpus as corpus  # a fixture

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
        return Started(process, self.folder / run, out)


class Started:
    def __init__(self, process: subprocess.Popen[bytes], run: Path, out: Path) -> None:
        self.process, self.run, self.out = process, run, out

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
        for pid in processes_with(f"run.folder={self.run.name}"):
            variables = read(pid, "environ").split("\0")
            rank = [value.removeprefix("RANK=") for value in variables if value.startswith("RANK=")]
            if rank and "pretrain.py" in read(pid, "cmdline"):
                found[int(rank[0])] = pid
        return [found[rank] for rank in sorted(found)]

    def until_gone(self) -> None:
        """Wait until no process of this run lives: no launcher, no rank."""
        self._until(lambda: not processes_with(f"run.folder={self.run.name}"), "an end of all processes")

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


def processes_with(argument: str) -> list[int]:
    """Pids of living processes that were started with this argument."""
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and argument in read(int(path.name), "cmdline").split("\0")
    ]


def shared_memory() -> set[str]:
    """Without semaphores of Python's multiprocessing: other programs on the machine make them too."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Home]:
    """Whatever a failed test has left running ends with it."""
    folder = tmp_path_factory.mktemp("launch") / "with a space"
    folder.mkdir()
    home = Home(folder, corpus)
    yield home
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and str(home.config) in read(int(process.name), "cmdline").split("\0"):
            os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(home: Home) -> Path:
    """The same run from its first to its last step, under the other launcher."""
    started = home.start("undisturbed", "cluster.launcher=torchrun")
    assert started.ended() == 0, started.said()
    started.until_gone()
    return started.run


@pytest.mark.timeout(2400)
def test_interrupted_and_gone_on_with_is_the_undisturbed_run(home: Home, undisturbed: Path) -> None:
    before = shared_memory()
    started = home.start("interrupted")
    started.until_steps(5)
    assert len(started.ranks()) == 2
    started.process.send_signal(signal.SIGINT)
    assert started.ended() == 75, started.said()
    started.until_gone()
    (step,) = saved_steps(started.run)
    assert 5 <= step < STEPS and max(curve(started.run)) == step
    assert "Traceback" not in started.said()

    again = home.start("interrupted")
    assert again.ended() == 0, again.said()
    again.until_gone()
    assert [event["step"] for event in events(again.run, "resume")] == [step]
    assert saved_steps(again.run) == [step, STEPS]
    assert curve(again.run) == curve(undisturbed)
    assert list(curve(undisturbed)) == list(range(1, STEPS + 1))
    assert list(home.temporary.glob("megatrain-*")) == [] and not (again.run / "control").exists()
    assert not list((again.run / "heartbeats").iterdir())
    assert shared_memory() <= before


@pytest.mark.timeout(2400)
def test_without_its_supervisor_a_run_saves_and_ends(home: Home) -> None:
    started = home.start("abandoned", "train.steps=1000000")
    started.until_steps(5)
    started.process.kill()
    assert started.ended() == -signal.SIGKILL
    started.until_gone()
    (step,) = saved_steps(started.run)
    assert [event["step"] for event in events(started.run, "preempt")] == [step]


@pytest.mark.timeout(2400)
def test_a_killed_rank_is_restarted(home: Home, undisturbed: Path) -> None:
    """From the newest checkpoint, and the curve is that of the undisturbed run."""
    started = home.start("killed", "checkpoint.every=20", "resilience.restarts.wait_s=0")
    started.until_steps(25)
    _, second = started.ranks()
    os.kill(second, signal.SIGKILL)
    assert started.ended() == 0, started.said()
    started.until_gone()
    (restart,) = events(started.run, "restart")
    assert "rank 1 ended without a word (killed, or out of memory?); restart 1 in 0 s" in restart["cause"]
    assert f"megatrain: restart at step {restart['step']}: rank 1" in started.said()
    (resumed,) = events(started.run, "resume")
    assert resumed["step"] % 20 == 0 and resumed["step"] >= 20
    assert curve(started.run) == curve(undisturbed)


@pytest.mark.timeout(2400)
def test_the_same_fault_again_ends_with_76(home: Home) -> None:
    """Every start is killed at its second step; no start comes further than the one before."""
    started = home.start(
        "hopeless",
        "resilience.restarts.wait_s=0",
        "resilience.restarts.without_progress=2",
        environment={"MEGATRAIN_FAULT": "point=step,rank=1,hit=2,do=kill"},
    )
    assert started.ended() == 76, started.said()
    started.until_gone()
    (end,) = events(started.run, "give up")
    assert "gave up after 2 restarts, 2 starts in a row without progress: rank 1 ended" in end["cause"]
    assert len(events(started.run, "restart")) == 2 and len(events(started.run, "start")) == 3
    assert saved_steps(started.run) == []


@pytest.mark.timeout(2400)
def test_an_error_that_ranks_find_ends_with_2(home: Home, undisturbed: Path) -> None:
    """One line from rank 0, through the launcher."""
    (source,) = (undisturbed / "checkpoints").iterdir()
    copied = shutil.copytree(source, home.folder / "weights" / source.name)
    started = home.start("refused", f"checkpoint.load_weights_from={copied}", "model.norm_eps=1e-6")
    assert started.ended() == 2
    started.until_gone()
    said = [line for line in started.said().splitlines() if line.startswith("megatrain: ")]
    assert len(said) == 1
    assert "is of another model: model.norm_eps is 1e-05 there and 1e-06" in said[0]
    assert not (started.run / "metrics.jsonl").exists() or not curve(started.run)
