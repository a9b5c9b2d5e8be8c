"""When a save is due by the clock; rank 0 asks, and its wish travels in the step's collective."""

from __future__ import annotations

import time

MOST_DOUBLINGS = 4


class Pace:
    """Every so many minutes, and again some time after a save that failed."""

    def __init__(self, every_s: float | None, retry_s: float) -> None:
        self._every_s, self._retry_s = every_s, retry_s
        self._begun = time.monotonic()
        self._failures = 0
        self._again_at: float | None = None
        self.last_s = 0.0
        """From the copy to the commit, of the last save."""

    def due(self) -> bool:
        now = time.monotonic()
        by_clock = self._every_s is not None and now - self._begun >= self._every_s
        return by_clock or (self._again_at is not None and now >= self._again_at)

    def begun(self) -> None:
        """A save begins, for whatever reason."""
        self._begun = time.monotonic()
        self._again_at = None

    def ended(self, *, well: bool, seconds: float = 0.0) -> None:
        """After a failure the wait doubles, up to 16 times the first."""
        self.last_s = seconds
        if well:
            self._failures = 0
            return
        wait_s = self._retry_s * 2 ** min(self._failures, MOST_DOUBLINGS)
        self._failures += 1
        self._again_at = time.monotonic() + wait_s
