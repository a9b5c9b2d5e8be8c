"""Own work and waiting make up the time from one step's begin to the next."""

from __future__ import annotations

import math

import pytest
import torch

from megatrain.resilience.waiting import Waits
from megatrain.train import clock as clock_module
from megatrain.train.clock import StepClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: time[0])
    return time


def test_with_waits(now: list[float]) -> None:
    waits = Waits()
    clock = StepClock(torch.device("cpu"), waits)
    clock.begin(0.5)
    assert clock.own_s == 0 and math.isnan(clock.comm_wait_s), "nothing is known yet"
    now[0] += 4.0  # forward
    clock.forwarded()
    now[0], waits.seconds = now[0] + 3.0, 3.0
    now[0] += 2.0  # backward
    clock.end()
    now[0], waits.seconds = now[0] + 1.0, 4.0  # an evaluation's collectives
    now[0] += 0.25  # a log
    clock.begin(0.125)
    assert (clock.own_s, clock.comm_wait_s) == (6.25, 3.0)
    clock.end()
    clock.begin(0.0)
    assert (clock.own_s, clock.comm_wait_s) == (0.0, 0.0)


def test_without_waits(now: list[float]) -> None:
    """Own work is the wait for data and the first forward pass; a wait for others is no number."""
    clock = StepClock(torch.device("cpu"))
    clock.begin(0.5)
    now[0] += 4.0
    clock.forwarded()
    now[0] += 3.0
    clock.end()
    clock.begin(0.0)
    assert clock.own_s == 4.5 and math.isnan(clock.comm_wait_s)
