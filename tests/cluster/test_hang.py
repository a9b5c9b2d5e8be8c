"""A rank that hangs, and one that is stopped: noticed within the limit, named, restarted; the curve is the
undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.launched import PATIENCE_S, Home, Started
from tests.distributed.corpus import curve, events

WATCH = (
    "checkpoint.every=20",
    "resilience.restarts.wait_s=0",
    "resilience.watchdog.step_floor_s=5",
    "resilience.watchdog.step_ceiling_s=5",
    "resilience.watchdog.heartbeat_s=0.5",
)


def went_on(started: Started, undisturbed: Path) -> str:
    """The cause of its one restart."""
    started.until_gone()
    (restart,) = events(started.run, "restart")
    (resumed,) = events(started.run, "resume")
    assert resumed["step"] >= 20 and curve(started.run) == curve(undisturbed)
    return str(restart["cause"])


@pytest.mark.timeout(PATIENCE_S * 4)
def test_a_rank_that_hangs(home: Home, undisturbed: Path) -> None:
    """It sleeps after a step; the other waits in the next step's collectives."""
    fault = "point=step,rank=1,hit=30,attempt=1,do=hang"
    started = home.start("hangs", *WATCH, environment={"MEGATRAIN_FAULT": fault})
    assert started.ended() == 0, started.said()
    cause = went_on(started, undisturbed)
    assert "no end of step" in cause and "rank 1 (" in cause and "did not arrive" in cause
    assert "step 30, computes, reads or hangs at faults.py:" in cause
    stacks = (started.run / "logs" / "stacks-0001.txt").read_text()
    assert "megatrain/faults.py" in stacks
    log = (started.run / "logs" / "rank-0000.log").read_text()
    assert "rank 0 on" in log and "waits in" in log, "the place of every rank"


@pytest.mark.timeout(PATIENCE_S * 4)
def test_a_lost_network_rehearsed_by_the_config(home: Home, undisturbed: Path) -> None:
    """The other rank, and the supervisor, see connections that are closed."""
    fault = "faults=[{at: step, step: 30, rank: 1, do: disconnect}]"
    started = home.start("disconnected", *WATCH, fault)
    assert started.ended() == 0, started.said()
    assert went_on(started, undisturbed).startswith("rank ")


@pytest.mark.timeout(PATIENCE_S * 4)
def test_a_rank_that_is_stopped(home: Home, undisturbed: Path) -> None:
    """SIGSTOP: its own watchdog is stopped too; the other names it, and the supervisor ends it."""
    started = home.start("stopped", *WATCH)
    started.until_steps(25)
    _, second = started.ranks()
    os.kill(second, signal.SIGSTOP)
    struck = time.monotonic()
    assert started.ended() == 0, started.said()
    assert "rank 1 (" in went_on(started, undisturbed)
    print(f"from the stop to the end of the run {time.monotonic() - struck:.0f} s")
