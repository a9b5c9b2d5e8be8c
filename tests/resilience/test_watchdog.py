"""When a rank has come to a standstill, who is named, and what is written before it ends."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from pathlib import Path

import pytest

from megatrain.config import WatchdogConfig
from megatrain.resilience import watchdog as watchdog_module
from megatrain.resilience.control import Control
from megatrain.resilience.watchdog import (
    HUNG,
    Heartbeat,
    StepLimit,
    Watchdog,
    read_heartbeats,
    whereabouts,
    who_did_not_arrive,
)
from megatrain.state import RunFolder

NOW = 1000.0


def beat(
    rank: int, step: int = 5, collective: str = "", age_s: float = 0.0, phase: str = "step"
) -> Heartbeat:
    place = "train/step.py:90 agree"
    return Heartbeat(
        rank, f"node{rank // 2}", 100 + rank, 1, phase, step, collective, place, False, NOW - age_s
    )


def name(*beats: Heartbeat) -> str:
    return who_did_not_arrive(beats, now=NOW, stale_s=20)


def test_who_is_named() -> None:
    waiting = [beat(rank, collective="all_gather") for rank in range(4)]
    assert name(*waiting) == "all ranks wait in all_gather: is it the network?"
    late = [*waiting[:2], beat(2, step=4, collective="all_reduce"), waiting[3]]
    assert name(*late).startswith(
        "rank 2 (node1) did not arrive, rank 2 on node1: step 4, waits in all_reduce"
    )
    busy = [waiting[0], beat(1), *waiting[2:]]
    said = name(*busy)
    assert said.startswith(
        "rank 1 (node0) did not arrive, rank 1 on node0: step 5, computes, reads or hangs at"
    )
    assert said.endswith("; the others wait in all_gather")
    stopped = [*waiting[:3], dataclasses.replace(waiting[3], unix=NOW - 40)]
    assert name(*stopped).startswith("rank 3 (node1) silent for 40 s, last rank 3 on node1: step 5, waits in")
    many = name(*[beat(rank, age_s=50) for rank in range(10)])
    assert many.startswith("ranks 0 (node0), 1 (node0), 2 (node1)") and "7 (node3) and 2 more" in many
    assert name(beat(0)).startswith("no rank waits for another; rank 0 on node0")
    assert name() == "no rank tells where it is"


def test_a_step_may_take_what_steps_take() -> None:
    limit = StepLimit(WatchdogConfig(step_floor_s=20, step_ceiling_s=100, start_s=500))
    assert limit.limit_s() == 500, "the first compiles"
    for seconds, wanted in ((1.0, 20), (1.0, 20), (50.0, 20), (5.0, 30), (5.0, 50), (60.0, 50)):
        limit.add(seconds)
        assert limit.limit_s() == wanted
    for _ in range(60):
        limit.add(90.0)
    assert limit.limit_s() == 100


def test_whereabouts() -> None:

    found: list[tuple[str, str]] = []

    def probe() -> float:
        found.append(whereabouts(sys._getframe()))
        return 0.0

    real = watchdog_module.statistics.median
    watchdog_module.statistics.median = lambda data: probe()  # type: ignore[assignment]
    try:
        limit = StepLimit(WatchdogConfig())
        limit.add(1)
        limit.limit_s()
    finally:
        watchdog_module.statistics.median = real
    ((collective, place),) = found
    assert collective == "" and place.startswith("resilience/watchdog.py:") and place.endswith(" limit_s")
    assert whereabouts(None) == ("", "")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "POLL_S", 0.02)
    monkeypatch.setattr(watchdog_module, "GATHER_S", 0.2)


def test_it_strikes(tmp_path: Path, quick: None) -> None:
    """Stacks, heartbeats and a word to the supervisor are there before the end."""
    folder, control = RunFolder(tmp_path / "run"), Control(tmp_path / "control")
    control.open()
    ends: list[int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        ends.append(code)
        ended.set()

    config = WatchdogConfig(step_floor_s=0.3, step_ceiling_s=0.3, heartbeat_s=0.05)
    watch = Watchdog(config, folder, 1, control=control, end=end)
    assert not folder.root.exists(), "a refused start leaves nothing"
    watch.opened(attempt=3)
    for step in range(1, 4):
        watch.phase("step", step)
        time.sleep(0.05)
    watch.phase("evaluate", 3)
    time.sleep(0.6)
    assert not ends, "an evaluation has a limit of its own"
    watch.phase("step", 4)
    assert ended.wait(30)
    assert ends == [HUNG]
    (failure,) = control.failures()
    assert (failure.rank, failure.kind) == (1, "hang")
    assert (
        failure.text.startswith("no end of step 4 within 0 s (")
        and "no rank waits for another" in failure.text
    )
    assert "test_it_strikes" in folder.stacks(1).read_text()
    (last,) = read_heartbeats(folder, 3)
    assert (last.rank, last.phase, last.step, last.struck) == (1, "step", 4, True)
    assert read_heartbeats(folder, 2) == [], "of another attempt"
    watch.close()
    assert not list(folder.heartbeats.iterdir())


def test_it_can_be_off_and_ends_when_asked(tmp_path: Path, quick: None) -> None:
    folder, control = RunFolder(tmp_path / "run"), Control(tmp_path / "control")
    control.open()
    ended = threading.Event()
    config = WatchdogConfig(enabled=False, start_s=0.05, heartbeat_s=0.05)
    watch = Watchdog(config, folder, 0, control=control, end=lambda code: ended.set())
    watch.opened(1)
    assert not ended.wait(0.5)
    control.ask("end")
    assert ended.wait(30), "the supervisor ends ranks of other hosts by this file"
    watch.close()
