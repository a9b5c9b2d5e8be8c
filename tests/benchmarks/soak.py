"""A soak: a run under `megatrain train` with a random fault every few seconds, against the same run
undisturbed.

python tests/benchmarks/soak.py [--steps 6000] [--every 20] [--minutes 30] [--seed N] [--folder F]

The faults come from outside, at random moments: kill -9 of a rank, of both, of the launcher, of the
supervisor; a rank stopped (SIGSTOP); SIGTERM to a rank or to the supervisor (preempted, started again); a
flipped byte in the newest checkpoint with a kill; a save asked for. At the end every step's loss, norm,
learning rate and samples must equal (==) those of the undisturbed run, and so must the files of the last
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatrain.observe.ledger import read_ledger, table  # noqa: E402
from megatrain.observe.samples import read_samples  # noqa: E402
from megatrain.state import RunFolder  # noqa: E402
from tests.distributed.corpus import BASE, curve, events, make_corpus  # noqa: E402

OPTIONS = {
    "checkpoint": {"every": 50, "keep": 4},
    "cluster": {"processes": 2},
    "observe": {"wandb": "off", "peak_tflops": 1, "sample_ids": True, "print_every": 1000},
    "resilience": {
        "restarts": {"wait_s": 0.5, "most": 10000, "without_progress": 50},
        "watchdog": {"step_floor_s": 10, "step_ceiling_s": 20, "heartbeat_s": 1, "start_s": 600},
        "grace_s": 60,
    },
}


class Soak:
    def __init__(self, folder: Path, steps: int, draw: random.Random) -> None:
        self.folder, self.steps, self.draw = folder, steps, draw
        self.struck: Counter[str] = Counter()
        tree = yaml.safe_load(BASE)
        tree["data"] |= {"sources": [{"path": str(make_corpus(folder / "corpus"))}], "sequence_length": 128}
        tree["train"] |= {"steps": steps, "global_batch": 16, "micro_batch": 4}
        tree |= OPTIONS
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(tree))

    def start(self, run: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "megatrain", "train", str(self.config), f"run.folder={run}"]
        with (self.folder / f"{run}.out").open("ab") as out:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def undisturbed(self) -> float:
        started = time.monotonic()
        code = self.start("undisturbed").wait()
        assert code == 0, (code, (self.folder / "undisturbed.out").read_text()[-3000:])
        return time.monotonic() - started

    def disturbed(self, every_s: float, until: float) -> Counter[int]:
        """Strikes until the time is over, then lets the run end; gives how often it ended with which code."""
        codes: Counter[int] = Counter()
        process = self.start("disturbed")
        next_at = time.monotonic() + self.draw.uniform(0.5, 1.5) * every_s
        while True:
            code = process.poll()
            if code is not None:
                codes[code] += 1
                if code == 0:
                    return codes
                assert code in (75, -9), (code, (self.folder / "disturbed.out").read_text()[-3000:])
                process = self.start("disturbed")
            now = time.monotonic()
            if now >= next_at and now < until:
                self.strike(process)
                next_at = now + self.draw.uniform(0.5, 1.5) * every_s
            time.sleep(0.05)

    def strike(self, supervisor: subprocess.Popen[bytes]) -> None:
        ranks, launchers = self._processes()
        if not ranks:
            return
        one = self.draw.choice(ranks)
        deeds: dict[str, Callable[[], object]] = {
            "kill a rank": lambda: _signal(one, signal.SIGKILL),
            "kill all ranks": lambda: _signal_all(ranks, signal.SIGKILL),
            "kill the launcher": lambda: _signal_all(launchers, signal.SIGKILL),
            "kill the supervisor": supervisor.kill,
            "stop a rank": lambda: _signal(one, signal.SIGSTOP),
            "SIGTERM to a rank": lambda: _signal(one, signal.SIGTERM),
            "SIGTERM to the supervisor": supervisor.terminate,
            "SIGUSR2 to a rank": lambda: _signal(one, signal.SIGUSR2),
            "flip a byte of the newest checkpoint": lambda: self._flip(ranks),
        }
        name = self.draw.choice(sorted(deeds))
        if name.startswith("SIG") and not self._in_training():
            name = "kill a rank"  # before it can catch signals they end it
        self.struck[name] += 1
        print(f"step {self._step()}: {name}", flush=True)
        deeds[name]()

    def _flip(self, ranks: list[int]) -> None:
        found = sorted((self.folder / "disturbed" / "checkpoints").glob("step-*/MANIFEST.json"))
        if len(found) > 1:
            part = self.draw.choice(sorted(found[-1].parent.glob("*.safetensors")))
            content = bytearray(part.read_bytes())
            content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            part.write_bytes(content)
        for rank in ranks:
            _signal(rank, signal.SIGKILL)

    def _processes(self) -> tuple[list[int], list[int]]:
        """Pids of the ranks, and of the launcher's processes."""
        ranks, launchers = [], []
        for path in Path("/proc").iterdir():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0") if path.name.isdigit() else []
            except OSError:
                continue
            if b"run.folder=disturbed" in words and str(self.config).encode() in words:
                if any(word.endswith(b"launch/pretrain.py") for word in words[:4]):
                    ranks.append(int(path.name))
                elif b"train" not in words:
                    launchers.append(int(path.name))
        return ranks, launchers

    def _step(self) -> int:
        path = self.folder / "disturbed" / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def _in_training(self) -> bool:
        beats = list((self.folder / "disturbed" / "heartbeats").glob("*.json"))
        return any(json.loads(beat.read_text()).get("phase") == "step" for beat in beats)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        _signal(pid, number)


def verdict(folder: Path) -> list[str]:
    """What differs: nothing, one hopes."""
    once, again = folder / "undisturbed", folder / "disturbed"
    wrong = []
    if curve(once) != curve(again):
        ours, theirs = curve(once), curve(again)
        first = next((step for step in ours if ours[step] != theirs.get(step)), None)
        wrong.append(
            f"the curves differ, first at step {first}: {ours.get(first or 0)}, {theirs.get(first or 0)}"
        )
    if read_samples(RunFolder(once)) != read_samples(RunFolder(again)):
        wrong.append("the samples differ")
    files = []
    for run in (once, again):
        newest = sorted((run / "checkpoints").glob("step-*/MANIFEST.json"))[-1]
        files.append([file["xxh3"] for file in json.loads(newest.read_text())["files"]])
    if files[0] != files[1]:
        wrong.append("the last checkpoints differ")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults, on average")
    parser.add_argument("--minutes", type=float, default=30.0, help="of faults; then the run may end")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        print(f"seed {arguments.seed}, in {folder}", flush=True)
        soak = Soak(folder, arguments.steps, random.Random(arguments.seed))
        print(f"undisturbed: {soak.undisturbed():.0f} s for {arguments.steps} steps", flush=True)
        started = time.monotonic()
        codes = soak.disturbed(arguments.every, started + 60 * arguments.minutes)
        seconds, count = time.monotonic() - started, sum(soak.struck.values())
        print(f"disturbed: {seconds:.0f} s, {count} faults; ends {dict(codes)}")
        for name, count in soak.struck.most_common():
            print(f"  {count:4d}  {name}")
        kinds = Counter(event["event"] for event in events_of(folder / "disturbed"))
        print(f"events: {dict(kinds)}")
        print(table(read_ledger(RunFolder(folder / "disturbed"))))
        wrong = verdict(folder)
        print("\n".join(wrong) if wrong else "every step, every sample and the last checkpoint are equal")
        return 1 if wrong else 0


def events_of(run: Path) -> list[dict[str, object]]:
    return [one for kind in ("start", "resume", "restart", "preempt", "fault") for one in events(run, kind)]


if __name__ == "__main__":
    sys.exit(main())
