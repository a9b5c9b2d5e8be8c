"""Which ranks are slow: those whose own work takes longer than that of the others.

In a synchronous step all ranks take equally long, for the fast ones wait. So each measures its own work
(train/clock.py), and how long it stands in collectives: the one that the others wait for waits least. Where
waits cannot be timed (GPUs), own work is that until the end of the first forward pass. Tensor-parallel
neighbours wait for each other within it, so there a slow rank is seen with its group.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Straggler:
    rank: int
    own_s: float
    """Median over the steps that were looked at."""
    ratio: float
    """To the median over the ranks."""
    comm_wait_s: float | None = None
    """Median over the steps; None where it cannot be timed."""
    others_comm_wait_s: float | None = None
    """The median of this over the ranks."""


class Stragglers:
    """Collects on rank 0, and judges every so many steps."""

    def __init__(self, every: int, ratio: float, least_s: float) -> None:
        """every: steps, 0: never. ratio, least_s: a rank is slow when it takes so many times the median of
        all ranks, and so much longer."""
        self._every, self._ratio, self._least_s = every, ratio, least_s
        self._rows: list[Sequence[float]] = []
        self._waits: list[Sequence[float]] = []
        self.slow: tuple[Straggler, ...] = ()
        """Who was when it was last judged, slowest first."""

    def add(self, own_s: Sequence[float], comm_wait_s: Sequence[float] = ()) -> tuple[Straggler, ...]:
        """One step's seconds by rank; gives the slow ranks when it is time. comm_wait_s: none where they
        cannot be timed."""
        if not self._every or len(own_s) < 2:
            return ()
        self._rows.append(own_s)
        if comm_wait_s:
            self._waits.append(comm_wait_s)
        if len(self._rows) < self._every:
            return ()
        own, waits = _medians(self._rows), _medians(self._waits)
        self._rows.clear()
        self._waits.clear()
        usual = statistics.median_low(own)
        usual_wait = statistics.median_high(waits) if waits else None
        slow = [
            Straggler(
                rank,
                seconds,
                seconds / usual if usual > 0 else float("inf"),
                waits[rank] if waits else None,
                usual_wait,
            )
            for rank, seconds in enumerate(own)
            if seconds > self._ratio * usual and seconds - usual > self._least_s
        ]
        self.slow = tuple(sorted(slow, key=lambda one: -one.own_s))
        return self.slow


def _medians(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of each column; none without rows."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]
