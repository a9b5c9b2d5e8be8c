"""The goodput ledger: where a run's time went, from what metrics.jsonl and events.jsonl tell.

Every second from the run's first start to its last record falls under one heading. Goodput is the share of
the time in which a run was meant to be going that ended up in steps which count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from megatrain.observe.metrics import Record
from megatrain.observe.report import read_lines
from megatrain.state import Event, RunFolder

STARTS = (Event.START.value, Event.RESUME.value)
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
    _counted: dict[int, float] = field(default_factory=dict)
    """Seconds of each step that counts as yet."""
    _until: float | None = None
    """Up to this moment every second has its heading."""
    _state: str = "off"
    """The heading of the time that passes: startup, going, fault, off."""

    @property
    def total_s(self) -> float:
        """Without the time in which it was not meant to run."""
        return sum(self.seconds.values()) - self.seconds["off"]

    @property
    def goodput(self) -> float:
        """Between 0 and 1; 1 before there is anything."""
        return self.seconds["productive"] / self.total_s if self.total_s > 0 else 1.0

    def step(self, record: Record) -> None:
        """A line of metrics.jsonl."""
        now, step_s = float(record["time"]), float(record["step_s"])
        begun = now - step_s
        if self._until is not None:
            stall_s = min(float(record["ckpt_stall_s"]), max(0.0, begun - self._until))
            self.seconds["saving"] += stall_s
            heading = "other" if self._state == "going" else self._state
            self.seconds[heading] += max(0.0, begun - self._until - stall_s)
            step_s = min(step_s, max(0.0, now - self._until))
        self._undo(int(record["step"]))
        if record["skipped"]:
            self.seconds["skipped"] += step_s
        else:
            self.seconds["productive"] += step_s
            self._counted[int(record["step"])] = step_s
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
        for step in [step for step in self._counted if step >= first]:
            lost = self._counted.pop(step)
            self.seconds["productive"] -= lost
            self.seconds["recomputed"] += lost


def read_ledger(folder: RunFolder) -> Ledger:
    """Of all that a run has written."""
    steps = [record for record in read_lines(folder.metrics) if _is_step(record)]
    events = [record for record in read_lines(folder.events) if isinstance(record.get("unix"), int | float)]
    return add_up(steps, events)


def add_up(steps: Iterable[Record], events: Iterable[Record]) -> Ledger:
    """Both in the order of time: a step's line is written when it has ended."""
    ledger = Ledger()
    merged = [(float(one["time"]), 0, one) for one in steps] + [
        (float(one["unix"]), 1, one) for one in events
    ]
    for _, kind, record in sorted(merged, key=lambda entry: entry[:2]):
        if kind == 0:
            ledger.step(record)
        else:
            ledger.event(record)
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
    ends = f"goodput {ledger.goodput:.1%} of {ledger.total_s:,.1f} s meant to run"
    return "\n".join([*lines, f"{ends}; {ledger.restarts} restarts, {ledger.rollbacks} rollbacks"])


def _is_step(record: Mapping[str, object]) -> bool:
    numbers = ("time", "step", "step_s", "ckpt_stall_s")
    return all(isinstance(record.get(name), int | float) for name in numbers) and "skipped" in record
