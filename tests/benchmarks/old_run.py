"""Measures what grows with the age of a run: its start (reading the ledger), `report`, and the log of a step.

    python tests/benchmarks/old_run.py [--steps 1000 100000 1000000]

A run is written with a restart every 10,000 steps that computes 200 steps again, and a rollback of 40 steps
every 25,000. Prints one line for each size, in seconds of processor time (the machine may be shared), with
the peak of memory and the median wall time of the log of one step.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatrain.observe.history import read_history
from megatrain.observe.ledger import ledger_of
from megatrain.observe.lines import Furthest
from megatrain.observe.log import RunLog
from megatrain.observe.metrics import Hardware
from megatrain.observe.sinks import JsonLines
from megatrain.state import Event, RunFolder, RunState, StepResult, Verdict

RESTART_EVERY, RECOMPUTED = 10_000, 200
ROLLBACK_EVERY, ROLLED_BACK = 25_000, 40
SAVE_EVERY = 500
HEAD = "     lines       file  supervisor    ledger      peak    report  a step's log"
ROW = (
    "{lines:>10,} {metrics_mib:>6.0f} MiB {supervisor_s:>9.2f} s {ledger_s:>7.2f} s {peak_mib:>5.0f} MiB"
    " {report_s:>7.1f} s {step_us:>10.0f} µs"
)


def story(steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("step" or "event", record) in the order of time, until `steps` lines of steps are written."""
    step, attempt, now, lines = 0, 1, 1.7e9, 0
    yield "event", {"event": "start", "step": 0, "cause": "", "unix": now, "attempt": 1, "startup_s": 20.0}
    while lines < steps:
        now, step, lines = now + 0.5, step + 1, lines + 1
        yield "step", a_step(step, attempt, now)
        if step % SAVE_EVERY == 0:
            for kind in ("save", "commit"):
                yield "event", {"event": kind, "step": step, "cause": "", "unix": now}
        if lines % ROLLBACK_EVERY == 0:
            back = max(0, step - ROLLED_BACK)
            yield "event", {"event": "rollback", "step": step, "cause": "", "unix": now, "to_step": back}
            step = back
        if lines % RESTART_EVERY == 0:
            attempt, now = attempt + 1, now + 60.0
            yield "event", {"event": "restart", "step": step, "cause": "", "unix": now - 50}
            step = max(0, step - RECOMPUTED)
            details = {"attempt": attempt, "startup_s": 20.0}
            yield "event", {"event": "resume", "step": step, "cause": "", "unix": now, **details}


def a_step(step: int, attempt: int, now: float) -> dict[str, Any]:
    return {
        "step": step,
        "consumed_samples": 512 * step,
        "consumed_tokens": 1048576 * step,
        "loss": 2.0 + 8.0 / step**0.5 + 0.05 * (step * 7919 % 101) / 101,
        "grad_norm": 0.41234567891234,
        "lr": 0.00029123456789,
        "step_s": 0.49123456789,
        "tokens_per_s": 2134567.891234,
        "mfu": 0.41234567891234,
        "data_wait_s": 0.0012345678,
        "comm_wait_s": 0.0123456789,
        "comm_wait_most_s": 0.0234567891,
        "ckpt_stall_s": 0.0,
        "mem_gib": 61.23456789,
        "skipped": False,
        "slow": None,
        "attempt": attempt,
        "time": now,
        "goodput": 0.98765432109,
    }


def write(folder: RunFolder, steps: int) -> None:
    folder.root.mkdir(parents=True)
    with folder.metrics.open("w") as metrics, folder.events.open("w") as events:
        for kind, record in story(steps):
            (metrics if kind == "step" else events).write(json.dumps(record) + "\n")


def measure(steps: int, home: Path) -> dict[str, float]:
    """Return seconds and MiB for a run of this age."""
    folder = RunFolder(home / f"run-{steps}")
    write(folder, steps)
    found: dict[str, float] = {"lines": steps, "metrics_mib": folder.metrics.stat().st_size / 2**20}
    began = time.process_time()
    Furthest(folder.metrics).step()
    found["supervisor_s"] = time.process_time() - began
    began = time.process_time()
    ledger = ledger_of(read_history(folder))
    found["ledger_s"] = time.process_time() - began
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    sinks = [JsonLines(folder.metrics, folder.events)]
    log = RunLog(sinks, hardware=Hardware(6e9, 1e15), sequence_length=2048, ledger=ledger)
    found["step_us"] = 1e6 * statistics.median(one_step(log, steps + number) for number in range(2000))
    log.event(Event.END, steps, "")
    log.close()
    command = [sys.executable, "-m", "megatrain", "report", str(folder.root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["report_s"] = used.ru_utime + used.ru_stime
    return found


def one_step(log: RunLog, step: int) -> float:
    """Return the seconds that the log takes of a step."""
    state = RunState(1, "f", step, step, 512 * step, 1048576 * step, attempt=1_000_000)
    result = StepResult(2.0, 0.4, 3e-4, 512, 1048576, Verdict.FINE, 0.5, 0.001, None, False, False)
    began = time.perf_counter()
    log.step(state, result)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="*", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:  # a process of its own, for its peak of memory
        with tempfile.TemporaryDirectory() as home:
            print(json.dumps(measure(arguments.one, Path(home))))
        return
    print(HEAD)
    for steps in arguments.steps:
        command = [sys.executable, __file__, "--one", str(steps)]
        told = subprocess.run(command, check=True, capture_output=True)
        print(ROW.format(**json.loads(told.stdout)), flush=True)


if __name__ == "__main__":
    main()
