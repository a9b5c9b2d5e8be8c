"""The goodput ledger: where a run's time went, from what metrics.jsonl and events.jsonl tell.

Every second from the run's first start to its last record falls under one heading. Goodput is the share of
the time in which a run was meant to be going that ended up in steps which count.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from megatrain.observe.history import STARTS, History, Steps, read_history, reading
from megatrain.observe.metrics import Record
from megatrain.state import Event, RunFolder

# After these nobody meant the run to go on until it was started again.
ENDS = (Event.END.value, Event.STOP.value, Event.PREEMPT.value, Event.GIVE_UP.value, Event.FAIL.value)
HEADINGS = {
    "productive": "steps that count",
    "recomputed": "steps that were lost and computed again",
    "skipped": "steps that were left out",
    "startup": "starting: processes, data, weights",
    "saving": "waiting for a copy or a save",
    "other": "evaluation, logging, checks",
    "fault": "from the last step to the end of a launch that failed",
    "off": "not meant to run",
}


@dataclass
class Ledger:
    """Adds up records in the order in which they were written."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(HEADINGS, 0.0))
    restarts: int = 0
    rollbacks: int = 0
    _steps: array[int] = field(default_factory=lambda: array("q"))
    """The steps that count as yet. They rise: a step undoes those from its own number on before it is added,
    so that what is undone is always at the end."""
    _step_s: array[float] = field(default_factory=lambda: array("d"))
    """The seconds of each."""
    _until: float | None = None
    """Up to this moment every second has its heading."""
    _state: str = "off"
    """The heading of the time that passes: startup, going, fault, off."""

    @property
    def total_s(self) -> float:
        """Without the time in which it was not meant to run."""
        return sum(self.seconds.values()) - self.seconds["off"]

    @property
    def goodput(self) -> float | None:
        """Between 0 and 1; None before there is anything."""
        return self.seconds["productive"] / self.total_s if self.total_s > 0 else None

    def step(self, record: Record) -> None:
        """Add a line of metrics.jsonl."""
        self.add(
            int(record["step"]),
            float(record["time"]),
            float(record["step_s"]),
            float(record["ckpt_stall_s"]),
            skipped=bool(record["skipped"]),
        )

    def add(self, step: int, now: float, step_s: float, stall_s: float, *, skipped: bool) -> None:
        """Add a step that ended at the Unix time `now`."""
        begun = now - step_s
        if self._until is not None:
            stall_s = min(stall_s, max(0.0, begun - self._until))
            self.seconds["saving"] += stall_s
            heading = "other" if self._state == "going" else self._state
            self.seconds[heading] += max(0.0, begun - self._until - stall_s)
            step_s = min(step_s, max(0.0, now - self._until))
        self._undo(step)
        if skipped:
            self.seconds["skipped"] += step_s
        else:
            self.seconds["productive"] += step_s
            self._steps.append(step)
            self._step_s.append(step_s)
        self._state, self._until = "going", now

    def event(self, record: Record) -> None:
        """A line of events.jsonl."""
        kind, now = record.get("event"), float(record["unix"])
        if kind in STARTS:
            # Told when the ranks are ready; the processes began before.
            begun = now - float(record.get("startup_s", 0.0))
            if self._state == "going":  # a launch that ended without anybody who saw it
                self._state = "fault"
            self._pass(begun)
            self._state = "startup"
            self._pass(now)
        elif kind == Event.RESTART.value:
            self.restarts += 1
            self._state = "fault" if self._state == "going" else self._state
            self._pass(now)
            self._state = "startup"
        elif kind in ENDS:
            if kind == Event.FAIL.value and self._state == "going":
                self._state = "fault"
            self._pass(now)
            self._state = "off"
        elif kind == Event.ROLLBACK.value:
            self.rollbacks += 1
            self._pass(now)
            self._undo(int(record["to_step"]) + 1)

    def _pass(self, now: float) -> None:
        if self._until is not None and now > self._until:
            self.seconds["other" if self._state == "going" else self._state] += now - self._until
        self._until = now if self._until is None else max(now, self._until)

    def _undo(self, first: int) -> None:
        """The steps from `first` on are computed again."""
        if not self._steps or self._steps[-1] < first:
            return
        at = bisect_left(self._steps, first)
        for lost in self._step_s[at:]:
            self.seconds["productive"] -= lost
            self.seconds["recomputed"] += lost
        del self._steps[at:], self._step_s[at:]


def read_ledger(folder: RunFolder) -> Ledger:
    """Return the ledger of all that a run has written."""
    return ledger_of(read_history(folder))


def reading_ledger(folder: RunFolder) -> Iterator[Ledger | None]:
    """Read as `read_ledger` does, yielding None about once a second before the result."""
    for history in reading(folder):
        yield None if history is None else ledger_of(history)


def ledger_of(history: History) -> Ledger:
    """Return the ledger of a run's history."""
    return _merged(history.steps, history.events)


def add_up(steps: Iterable[Record], events: Iterable[Record]) -> Ledger:
    """Return the ledger of lines of metrics.jsonl and of events.jsonl."""
    columns = Steps()
    for line in steps:
        columns.add(line)
    return _merged(columns, events)


def _merged(steps: Steps, events: Iterable[Record]) -> Ledger:
    """Both in the order of time: a step's line is written when it has ended."""
    ledger = Ledger()
    ahead = sorted(events, key=lambda event: float(event["unix"]))
    ahead.reverse()  # the next one is at the end
    rows = np.argsort(steps.column("time"), kind="stable")
    times, step_s, stall_s = (steps.numbers[name] for name in ("time", "step_s", "ckpt_stall_s"))
    for row in map(int, rows):
        while ahead and ahead[-1]["unix"] < times[row]:
            ledger.event(ahead.pop())
        skipped = bool(steps.skipped[row])
        ledger.add(steps.step[row], times[row], step_s[row], stall_s[row], skipped=skipped)
    while ahead:
        ledger.event(ahead.pop())
    return ledger


def table(ledger: Ledger) -> str:
    """A line a heading, with its share."""
    whole = sum(ledger.seconds.values())
    rows = [
        (name, f"{seconds:,.1f} s", f"{seconds / whole:.1%}" if whole else "-", HEADINGS[name])
        for name, seconds in ledger.seconds.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {seconds:>{widths[1]}}  {share:>{widths[2]}}  {what}"
        for name, seconds, share, what in rows
    ]
    goodput = "-" if ledger.goodput is None else f"{ledger.goodput:.1%}"
    ends = f"goodput {goodput} of {ledger.total_s:,.1f} s meant to run"
    return "\n".join([*lines, f"{ends}; {ledger.restarts} restarts, {ledger.rollbacks} rollbacks"])
