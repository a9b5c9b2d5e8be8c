"""Every second of a run has one heading; goodput is the share of steps that count."""

from __future__ import annotations

import math
from array import array
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from megatrain.observe.ledger import HEADINGS, Ledger, add_up, table


def step(number: int, time: float, step_s: float = 1.0, stall_s: float = 0.0, skipped: bool = False) -> Any:
    return {"step": number, "time": time, "step_s": step_s, "ckpt_stall_s": stall_s, "skipped": skipped}


def event(kind: str, unix: float, **details: Any) -> Any:
    return {"event": kind, "unix": unix, "step": 0, "cause": "", **details}


def seconds(ledger: Ledger) -> dict[str, float]:
    return {name: round(value, 6) for name, value in ledger.seconds.items() if value}


def test_a_run_that_nothing_disturbs() -> None:
    steps = [step(1, 112), step(2, 113.5), step(3, 115, stall_s=0.2), step(4, 116, skipped=True)]
    ledger = add_up(steps, [event("start", 110, startup_s=10), event("end", 117)])
    assert seconds(ledger) == {
        "productive": 3.0,
        "skipped": 1.0,
        "startup": 11.0,
        "saving": 0.2,
        "other": 1.8,
    }
    assert ledger.total_s == 17 and math.isclose(ledger.goodput, 3 / 17)


def test_a_fault_a_restart_and_steps_again() -> None:
    """Killed after step 4, seen 5 s later; goes on from step 2 after 8 s."""
    steps = [step(n, 10.0 + n) for n in (1, 2, 3, 4)] + [step(3, 28), step(4, 29), step(5, 30)]
    events = [event("start", 10), event("restart", 19), event("resume", 27), event("end", 30)]
    ledger = add_up(steps, events)
    assert seconds(ledger) == {"productive": 5.0, "recomputed": 2.0, "startup": 8.0, "fault": 5.0}
    assert (ledger.restarts, ledger.total_s) == (1, 20.0)


def test_stops_preemptions_and_nobody_who_saw_the_end() -> None:
    """Off while nobody meant it to run; a launch that ended unseen is a fault until the next start."""
    steps = [step(1, 11), step(2, 61), step(3, 91)]
    events = [event("start", 10), event("preempt", 12), event("resume", 60, startup_s=5), event("resume", 90)]
    ledger = add_up(steps, events)
    assert seconds(ledger) == {"productive": 3.0, "other": 1.0, "off": 43.0, "startup": 5.0, "fault": 29.0}


def test_a_rollback_undoes_steps() -> None:
    steps = [step(n, 10.0 + n) for n in (1, 2, 3, 4)] + [step(3, 17), step(4, 18)]
    ledger = add_up(steps, [event("start", 10), event("rollback", 15, from_step=4, to_step=2)])
    assert seconds(ledger) == {"productive": 4.0, "recomputed": 2.0, "other": 2.0}
    assert ledger.rollbacks == 1


def test_a_run_that_failed_is_off_until_it_is_started_again() -> None:
    steps = [step(1, 11), step(2, 61)]
    ledger = add_up(steps, [event("start", 10), event("fail", 14), event("resume", 60, startup_s=5)])
    assert seconds(ledger) == {"productive": 2.0, "fault": 3.0, "off": 41.0, "startup": 5.0}
    assert ledger.restarts == 0


KINDS = st.sampled_from(["start", "resume", "restart", "preempt", "stop", "end", "fault", "give up", "fail"])


@given(st.lists(st.tuples(st.floats(0, 5), st.one_of(KINDS, st.integers(1, 6))), min_size=1, max_size=40))
def test_no_second_is_lost_or_counted_twice(story: list[tuple[float, str | int]]) -> None:
    now, steps, events = 100.0, [], []
    first: float | None = None
    for wait_s, what in story:
        now += wait_s
        if isinstance(what, int):
            now += 0.5
            steps.append(step(what, now, 0.5, 0.1))
            first = now - 0.5 if first is None else first
        else:
            events.append(event(what, now, startup_s=0.0))
            if what != "fault":
                first = now if first is None else first
    ledger = add_up(steps, events)
    last = max([s["time"] for s in steps] + [e["unix"] for e in events if e["event"] != "fault"], default=now)
    wanted = last - first if first is not None else 0.0
    assert math.isclose(sum(ledger.seconds.values()), wanted, abs_tol=1e-6)
    assert all(value > -1e-9 for value in ledger.seconds.values())
    assert ledger.goodput is None or 0 <= ledger.goodput <= 1


class Naive(Ledger):
    """By definition: a step undoes all counted ones from its number on, in rising order."""

    def _undo(self, first: int) -> None:
        counted = dict(zip(self._steps, self._step_s, strict=True))
        for number in sorted(counted):
            if number >= first:
                self.seconds["productive"] -= counted[number]
                self.seconds["recomputed"] += counted.pop(number)
        self._steps, self._step_s = array("q", sorted(counted)), array("d", map(counted.get, sorted(counted)))


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0, 3), st.booleans(), st.booleans()), max_size=60))
def test_what_is_undone_is_what_the_definition_undoes(story: list[tuple[int, float, bool, bool]]) -> None:
    """Digit by digit, whatever is rolled back, restarted or computed again."""
    now, fast, naive = 100.0, Ledger(), Naive()
    for number, step_s, skipped, back in story:
        now += step_s + 0.1
        for ledger in (fast, naive):
            if back:
                ledger.event(event("rollback", now, to_step=number))
            else:
                ledger.step(step(number, now, step_s, 0.0, skipped))
    assert (fast.seconds, fast.rollbacks) == (naive.seconds, naive.rollbacks)


def test_the_cost_of_a_step_does_not_depend_on_how_many_were_before() -> None:
    """A scan of all counted steps for each would take an hour for these."""
    steps = [step(number, 100.0 + number, 0.5) for number in range(1, 200_001)]
    assert math.isclose(add_up(steps, []).seconds["productive"], 100_000)


def test_the_table_has_every_heading() -> None:
    text = table(add_up([step(1, 11)], [event("start", 10)]))
    assert all(name in text for name in HEADINGS)
    assert text.splitlines()[-1] == "goodput 100.0% of 1.0 s meant to run; 0 restarts, 0 rollbacks"
    assert "goodput - of 0.0 s" in table(Ledger()), "an average over nothing is no number"
