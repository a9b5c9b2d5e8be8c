"""What the ranks of a run waited for each other, and which were slow: lines for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from megatrain.observe.metrics import Record
from megatrain.observe.report import read_lines, read_metrics
from megatrain.state import Event, RunFolder


def read_balance(folder: RunFolder) -> list[str]:
    """Of all that a run has written."""
    return [*waiting(read_metrics(folder)), *slow_ranks(read_lines(folder.events))]


def waiting(steps: Sequence[Record]) -> list[str]:
    """Share of the steps' time in collectives; nothing where there is no figure."""
    timed = [one for one in steps if isinstance(one.get("comm_wait_s"), int | float) and one["step_s"] > 0]
    if not timed:
        return []
    whole_s = sum(one["step_s"] for one in timed)
    least, most = (sum(one[key] for one in timed) / whole_s for key in ("comm_wait_s", "comm_wait_most_s"))
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
