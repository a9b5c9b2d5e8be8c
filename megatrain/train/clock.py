"""What a rank does by itself, and how long it stands in collectives, from step to step.

In a synchronous step all ranks take equally long, for the fast ones wait for the slow. Where waits can be
timed (resilience/waiting.py), a rank's own work is all that is not waiting, from the beginning of one step to
that of the next: data, computation, logs. Elsewhere it is what the rank does until it first waits for
another: it fetches its batch and passes it forward for the first time.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from megatrain.resilience.waiting import Waits


class StepClock:
    """Of one rank. What it tells is of the step before: only then a step is over, and a GPU done with it."""

    def __init__(self, device: torch.device, waits: Waits | None = None) -> None:
        """waits: of the thread that trains; None where they cannot be timed."""
        self._gpu, self._waits = device.type == "cuda", waits
        self._begun, self._waited_s, self._data_wait_s, self._forward_s = math.nan, 0.0, 0.0, 0.0
        self._marks: tuple[Any, Any] | None = None
        self._step_comm_wait_s = math.nan
        self.own_s = 0.0
        self.comm_wait_s = math.nan
        """Within the step, without what lies between steps; nan where it cannot be timed, or is not yet."""

    def begin(self, data_wait_s: float) -> None:
        """A step begins, after so long a wait for its batch."""
        now = time.perf_counter()
        if not math.isnan(self._begun):
            self.own_s, self.comm_wait_s = self._own_work_s(now), self._step_comm_wait_s
        self._begun, self._data_wait_s = now, data_wait_s
        if self._waits is not None:
            self._waited_s = self._waits.seconds
        elif self._gpu:
            event: Any = torch.cuda.Event
            self._marks = (event(enable_timing=True), event(enable_timing=True))
            self._marks[0].record()

    def forwarded(self) -> None:
        """The first forward pass is over, or given to the GPU."""
        if self._marks is not None:
            self._marks[1].record()
        self._forward_s = time.perf_counter() - self._begun

    def end(self) -> None:
        if self._waits is not None:
            self._step_comm_wait_s = self._waits.seconds - self._waited_s

    def _own_work_s(self, now: float) -> float:
        if self._waits is not None:
            return now - self._begun - (self._waits.seconds - self._waited_s)
        if self._marks is not None:
            return self._data_wait_s + float(self._marks[0].elapsed_time(self._marks[1])) / 1e3
        return self._data_wait_s + self._forward_s
