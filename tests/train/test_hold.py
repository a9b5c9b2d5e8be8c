"""The last word of a run that fails, and who may say it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from megatrain.config import parse_config
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.context import ParallelContext
from megatrain.records import write_sealed
from megatrain.state import RunFolder
from megatrain.train.hold import hold_run, keep_log

# Slow to start: it is waited for.
WRITE = "import sys, time; time.sleep(0.5); open(sys.argv[1], 'w').write(sys.stdin.read())"


def told(
    root: Path, error: Exception, *, taken_over: bool = False, damaged: bool = False
) -> tuple[list[tuple[str, str]], bool]:
    """The events of a run that ends by this error, and whether somebody was alerted."""
    folder, out = RunFolder(root), root.with_suffix(".alert")
    config = parse_config("observe: {wandb: off, peak_tflops: 1}\nresilience: {lease_s: 1}")
    alert = config.resilience.alert.model_copy(update={"command": (sys.executable, "-c", WRITE, str(out))})
    care = config.resilience.model_copy(update={"alert": alert})
    config, context = config.model_copy(update={"resilience": care}), ParallelContext.single()

    def run() -> None:
        with hold_run(folder, config, context) as hold, keep_log(config, context, folder, hold):
            if taken_over:
                tree = json.loads(folder.lease.read_text())
                write_sealed(folder.lease, {**tree, "key": "theirs", "attempt": 2})
            if damaged:
                folder.lease.write_text("{")
            raise error

    with pytest.raises(type(error), match="the reason"):
        run()
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    return [(line["event"], line["cause"]) for line in lines], out.exists()


def test_failed_work_is_told_and_whoever_must_know_is_called(tmp_path: Path) -> None:
    assert told(tmp_path / "run", FailedWork("the reason")) == ([("fail", "the reason")], True)


def test_what_is_no_failure_of_the_run(tmp_path: Path) -> None:
    """Wrong input is said before work begins; a crash is the supervisor's to tell, for it starts again."""
    for name, error in (("input", UserError("the reason")), ("crash", RuntimeError("the reason"))):
        assert told(tmp_path / name, error) == ([], False)


def test_a_run_that_another_attempt_continues_did_not_fail(tmp_path: Path) -> None:
    assert told(tmp_path / "taken", FailedWork("the reason"), taken_over=True) == ([], False)


def test_a_damaged_lease_is_still_its_holders(tmp_path: Path) -> None:
    """Nobody has claimed a higher attempt."""
    failed = ([("fail", "the reason")], True)
    assert told(tmp_path / "damaged", FailedWork("the reason"), damaged=True) == failed
