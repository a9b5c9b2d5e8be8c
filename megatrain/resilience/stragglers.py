"""Which ranks are slow: those whose own work takes longer than that of the others.

In a synchronous step all ranks take equally long, for the fast ones wait. So each measures what it does
before it first waits for another: fetching its batch, and the forward pass of its first micro-batch.
Tensor-parallel neighbours wait for each other within that, so a slow rank is seen with its group.
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


class Stragglers:
    """Collects on rank 0, and judges every so many steps."""

    def __init__(self, every: int, ratio: float, least_s: float) -> None:
        """every: steps, 0: never. ratio, least_s: a rank is slow when it takes so many times the median of
        all ranks, and so much longer."""
        self._every, self._ratio, self._least_s = every, ratio, least_s
        self._rows: list[Sequence[float]] = []

    def add(self, own_s: Sequence[float]) -> list[Straggler]:
        """One step's seconds by rank; gives the slow ranks, slowest first, when it is time."""
        if not self._every or len(own_s) < 2:
            return []
        self._rows.append(own_s)
        if len(self._rows) < self._every:
            return []
        medians = [statistics.median(column) for column in zip(*self._rows, strict=True)]
        self._rows.clear()
        usual = statistics.median_low(medians)
        slow = [
            Straggler(rank, own, own / usual if usual > 0 else float("inf"))
            for rank, own in enumerate(medians)
            if own > self._ratio * usual and own - usual > self._least_s
        ]
        return sorted(slow, key=lambda one: -one.own_s)
