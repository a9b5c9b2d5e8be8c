"""The clock asks for a save every so many minutes, and again after one that failed, with growing waits."""

from __future__ import annotations

import pytest

from megatrain.checkpoint import pace as pace_module
from megatrain.checkpoint.pace import Pace


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: clock.now)
    return clock


def test_every_so_many_seconds_since_the_last(clock: Clock) -> None:
    pace = Pace(60, 5)
    clock.now += 59
    assert not pace.due()
    clock.now += 1
    assert pace.due()
    pace.begun()
    assert not pace.due()
    pace.ended(well=True)
    clock.now += 59
    assert not pace.due()


def test_without_a_clock_only_failures_ask(clock: Clock) -> None:
    pace = Pace(None, 5)
    clock.now += 1e9
    assert not pace.due()
    waits = []
    for _ in range(7):
        pace.begun()
        pace.ended(well=False)
        began = clock.now
        while not pace.due():
            clock.now += 1
        waits.append(clock.now - began)
    assert waits == [5, 10, 20, 40, 80, 80, 80]
    pace.begun()
    assert not pace.due(), "a save that is under way is not asked for again"
    pace.ended(well=True)
    clock.now += 1e9
    assert not pace.due()
    pace.ended(well=False)
    clock.now += 5
    assert pace.due(), "after a success the waits begin anew"
