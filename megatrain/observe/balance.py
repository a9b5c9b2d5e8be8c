"""What the ranks of a run waited for each other, and which were slow: lines for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from megatrain.observe.history import History, read_history
from megatrain.observe.metrics import Record
from megatrain.state import Event, RunFolder


def read_balance(folder: RunFolder) -> list[str]:
    """Return the lines for all that a run has logged."""
    return balance(read_history(folder))


def balance(history: History) -> list[str]:
    """Return the lines for a run's history."""
    rows = history.steps.last_of_each()
    columns = (history.steps.column(name)[rows] for name in ("step_s", "comm_wait_s", "comm_wait_most_s"))
    return [*_share(*columns), *slow_ranks(history.events)]


def waiting(steps: Sequence[Record]) -> list[str]:
    """Return the share of the steps' time in collectives; nothing where there is no figure."""
    names = ("step_s", "comm_wait_s", "comm_wait_most_s")
    return _share(*(np.array([one.get(name) for one in steps], dtype=float) for name in names))


def _share(step_s: np.ndarray, least_s: np.ndarray, most_s: np.ndarray) -> list[str]:
    timed = (step_s > 0) & np.isfinite(least_s) & np.isfinite(most_s)
    if not timed.any():
        return []
    least, most = (float(values[timed].sum() / step_s[timed].sum()) for values in (least_s, most_s))
    return [f"in collectives {least:.1%} of the steps' time, {most:.1%} on the rank that waits most"]


def slow_ranks(events: Iterable[Record]) -> list[str]:
    """A line for each rank on a host that was slow, the one named most often first."""
    told: dict[tuple[int, str], list[Record]] = {}
    for event in events:
        if event.get("event") == Event.SLOW.value and {"rank", "host", "ratio"} <= set(event):
            told.setdefault((event["rank"], event["host"]), []).append(event)
    return [
        f"slow: rank {rank} on {host}, named {len(times)} times, last at step {times[-1]['step']}: "
        f"{times[-1]['ratio']:.1f} times as long as the others"
        for (rank, host), times in sorted(told.items(), key=lambda item: -len(item[1]))
    ]
