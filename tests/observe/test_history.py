"""What another process may have written into a run's records spoils nothing and hides nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatrain.observe.balance import read_balance
from megatrain.observe.history import Steps, read_evaluations, read_history, read_metrics, why_no_step
from megatrain.observe.ledger import read_ledger
from megatrain.observe.lines import Furthest, Newest, tail
from megatrain.observe.report import draw_loss_curve, thinned
from megatrain.state import RunFolder
from tests.observe.test_log import FIELDS

STEP = {"step": 1, "time": 100.0, "step_s": 1.0, "ckpt_stall_s": 0.0, "skipped": False, "loss": 2.0}
ODD_STEPS: list[str] = [
    *(json.dumps({**STEP, "step": value}) for value in (True, -1, 1.5, "2", None, 10**30, [1], {})),
    *(json.dumps({**STEP, "time": value}) for value in ("now", None, True, 1e300, -5)),
    *(json.dumps({**STEP, name: "1"}) for name in ("step_s", "ckpt_stall_s", "skipped", "loss", "attempt")),
    *(json.dumps({**STEP, name: float("nan")}) for name in ("time", "loss")),
    json.dumps(STEP).replace("2.0", "1e999"),
    json.dumps({**STEP, "consumed_tokens": 10**400}),
    "[" * 100_000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    "[]",
    "null",
    "7",
    '{"step": 3, "step": 4}',
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
]
ODD_EVENTS: list[dict[str, Any]] = [
    {"event": "rollback", "unix": 100.5},
    {"event": "rollback", "unix": 100.5, "to_step": "2"},
    {"event": "start", "unix": 100.5, "startup_s": "long"},
    {"event": "resume", "unix": "yesterday"},
    {"event": ["start"], "unix": 100.5},
    {"event": "slow", "unix": 100.5, "rank": [1], "host": {}, "ratio": "x", "step": 1},
    {"event": "evaluation", "unix": 100.5, "step": "1", "results": {"all": {"loss": 1.0}}},
    {"event": "evaluation", "unix": 100.5, "step": 1, "results": {"all": 7}},
    {"event": "evaluation", "unix": 100.5, "step": 1, "results": {"all": {"loss": "low"}}},
]


def write(folder: RunFolder, steps: list[dict[str, Any]]) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.metrics.write_text("".join(json.dumps(one) + "\n" for one in steps))


def at(step: int, attempt: int, loss: float = 2.0) -> dict[str, Any]:
    return {**STEP, "step": step, "time": 100.0 + step, "loss": loss, "attempt": attempt}


def test_odd_lines_are_skipped_and_counted_in_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    text = "\n".join([json.dumps(STEP), *ODD_STEPS, json.dumps({**STEP, "step": 2, "time": 101.0})])
    folder.metrics.write_bytes(text.encode() + b'\n\xff\xfe{}\n{"step": 3, "ti')
    odd_events = "".join(json.dumps(one) + "\n" for one in ODD_EVENTS)
    folder.events.write_text(odd_events + '{"event": "start", "unix": 98.0}\n')
    history = read_history(folder)
    assert list(history.steps.step) == [1, 2] and [one["event"] for one in history.events] == ["start"]
    warnings = [record.getMessage() for record in caplog.records]
    assert [f"{len(ODD_STEPS) + 1} lines" in warnings[0], f"{len(ODD_EVENTS)} lines" in warnings[1]] == [
        True
    ] * 2
    assert len(warnings) == 2 and "line 2: `step` is no count" in warnings[0]
    assert read_ledger(folder).seconds["productive"] == 2.0 and read_balance(folder) == []
    assert read_evaluations(folder) == [] and draw_loss_curve(folder).exists()


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(0, 1e10),
            st.integers(0, 2**53),
            st.integers(0, 3),
            st.sampled_from([None, "rank 3 on far", 'a \\\\ "b"']),
            st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(
        [b"", b"x\n", b"[]\n", b"{}\n", b'{"step": 1}{"step": 2}\n', b"\n", "中\n".encode(), b"\xff\n"]
    ),
)
def test_lines_that_are_read_together_are_read_as_one_by_one(
    story: list[tuple[float, float, int, int, str | None, bool]], odd: bytes
) -> None:
    together, apart, highest, newest = Steps(), Steps(), Newest(), Newest()
    block = b""
    for loss, moment, count, attempt, slow, skipped in story:
        line: dict[str, Any] = dict.fromkeys(FIELDS, 0.25) | {
            **{
                "step": count,
                "consumed_tokens": count,
                "attempt": attempt,
                "loss": loss,
                "comm_wait_s": None,
            },
            **{"skipped": skipped, "slow": slow, "time": moment, "step_s": moment},
        }
        block += json.dumps(line).encode() + b"\n"
        assert not why_no_step(line)
        if newest.counts(line):
            apart.add(line)
    assert together.add_block(block + odd, highest) == (odd == b"")
    if not odd:
        assert str(together) == str(apart), "text, as NaN is not equal to itself"
        assert (highest.attempt, highest.stale) == (newest.attempt, newest.stale)


@pytest.mark.parametrize("odd", ODD_STEPS)
def test_a_block_with_an_odd_line_is_read_line_by_line(odd: str) -> None:
    steps = Steps()
    assert not steps.add_block(f"{json.dumps(STEP)}\n{odd}\n".encode("utf-8", "surrogateescape"), Newest())
    assert steps == Steps()


def test_what_is_no_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    os.mkfifo(folder.metrics)
    folder.events.mkdir()
    assert not read_history(folder).steps.step and Furthest(folder.metrics).step() == 0
    assert tail(folder.metrics) == tail(folder.events) == []
    assert sum("cannot be read" in record.getMessage() for record in caplog.records) == 2


def test_the_highest_attempt_counts_wherever_its_lines_are(tmp_path: Path) -> None:
    """One that was stopped, followed by another, and continued, hides nothing of the other."""
    folder = RunFolder(tmp_path)
    ours = [at(step, 2, 2.0) for step in range(5, 31)]
    stale = [at(step, 1, 9.0) for step in range(8, 20)]
    write(folder, [*(at(step, 1) for step in range(1, 8)), *ours[:10], *stale[:6], *ours[10:], *stale[6:]])
    assert [one["step"] for one in read_metrics(folder)] == list(range(1, 31))
    assert {one["loss"] for one in read_metrics(folder)} == {2.0}
    history = read_history(folder)
    assert history.steps.stale == len(stale)
    assert read_ledger(folder).seconds["recomputed"] == 3.0  # steps 5, 6 and 7 of attempt 1


def test_an_impossible_attempt_makes_no_later_line_stale(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [at(step, 1) for step in range(1, 8)]
    write(folder, [*lines[:3], at(4, 1 << 40), *lines[3:]])
    assert list(read_history(folder).steps.step) == [1, 2, 3, 4, 5, 6, 7]


def test_progress_is_read_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    progress = Furthest(folder.metrics)
    assert progress.step() == 0
    write(folder, [at(step, 1) for step in (1, 2, 9, 3)])
    with folder.metrics.open("a") as file:
        file.write('{"step": 12')
        file.flush()
        assert progress.step() == 9, "a line that is being written is not there yet"
        file.write('}\n{"attempt": 1, "step": 11}\n')
    assert progress.step() == 12 and progress.step() == 12
    write(folder, [at(4, 1)])
    assert progress.step() == 4, "the run was begun anew"


def test_a_long_curve_keeps_its_spikes() -> None:
    y = np.ones(1_000_000)
    y[[123_456, 777_777]] = (50.0, -50.0)
    y[500_000:600_000] = np.nan
    x, thin = thinned(np.arange(len(y)), y)
    assert len(x) <= 4000 and (np.diff(x) >= 0).all() and np.isnan(thin).any()
    assert {123_456, 777_777} <= set(x.tolist()) and np.nanmax(thin) == 50 and np.nanmin(thin) == -50
    assert thinned(x[:10], thin[:10])[0].tolist() == x[:10].tolist()
