"""What is left out, which checkpoints count after a rollback, and the file that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatrain.data.skipped import sample, samples
from megatrain.errors import FailedWork, UserError
from megatrain.records import write_sealed
from megatrain.resilience.timeline import (
    LeftOut,
    bad_samples,
    belongs,
    fruitless,
    leaving_out,
    read_records,
    write_records,
)
from megatrain.state import RunFolder, RunState

STATE = RunState(seed=1, data_fingerprint="f")
BATCH = 5
RANGES = st.tuples(st.integers(0, 200), st.integers(1, 40)).map(lambda r: LeftOut(r[0], r[0] + r[1]))


def at(step: int, skipped: tuple[tuple[int, int], ...] = ()) -> RunState:
    return RunState(seed=1, data_fingerprint="f", step=step, consumed_samples=BATCH * step, skipped=skipped)


@given(st.lists(RANGES, max_size=6), st.lists(RANGES, max_size=6), st.integers(0, 40))
def test_what_is_left_out_later_never_shifts_what_was_taken(
    known: list[LeftOut], new: list[LeftOut], step: int
) -> None:
    """The samples behind stay the same; of those ahead, the records' are left out and all others stay."""
    before = leaving_out(at(0), known)
    here = at(step, before.skipped)
    after = leaving_out(here, new)
    taken = here.consumed_samples
    assert samples(0, taken, after.skipped).tolist() == samples(0, taken, here.skipped).tolist()
    ahead = {n for one in new for n in range(one.first, one.last)}
    position = sample(taken, here.skipped)
    wanted = [n for n in samples(taken, 300, here.skipped).tolist() if n not in ahead]
    assert samples(taken, len(wanted), after.skipped).tolist() == wanted
    assert leaving_out(after, new) == after and position <= (wanted or [position])[0]


@given(st.lists(RANGES, max_size=6), st.integers(1, 30), st.integers(1, 10))
def test_the_bad_samples_are_those_of_the_row(known: list[LeftOut], step: int, row: int) -> None:
    row = min(row, step)
    skipped = leaving_out(at(0), known).skipped
    state = RunState(
        seed=1,
        data_fingerprint="f",
        step=step,
        consumed_samples=BATCH * step,
        skipped=skipped,
        skipped_in_row=row,
    )
    first, last = bad_samples(state, BATCH)
    found = samples(BATCH * (step - row), BATCH * row, skipped).tolist()
    assert (first, last) == (found[0], found[-1] + 1)


def test_a_time_line_that_was_given_up() -> None:
    """Checkpoints after the step that the run went back to count only with the samples left out."""
    first = LeftOut(20, 30, from_step=6, to_step=3)
    second = LeftOut(60, 70, from_step=13, to_step=11)
    by_hand = LeftOut(5, 6)
    assert belongs(at(3), [first]) and belongs(at(2), [first]) and not belongs(at(4), [first])
    assert belongs(at(9, ((20, 30),)), [first]) and belongs(at(9, ((15, 35),)), [first])
    assert not belongs(at(12, ((20, 30),)), [first, second]) and belongs(at(11, ((20, 30),)), [first, second])
    assert belongs(at(99), [by_hand])
    assert fruitless([first, first, by_hand], 3) == 2 and fruitless([first], 11) == 0
    assert fruitless([first, second], 3) == 2, "back at the old one: no progress was kept"


def test_the_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_records(folder) == ()
    records = (LeftOut(20, 30, 6, 3, "2 skipped"), LeftOut(1, 2))
    write_records(folder, records)
    assert read_records(folder) == records
    sound = folder.left_out.read_text()
    for text in (
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "left_out": [{"first": 3}]}',
        '{"version": 1, "left_out": [{"first": 3, "last": 3}]}',
        '{"version": 1, "left_out": [{"first": "3", "last": 9}]}',
        '{"version": 1, "left_out": [{"first": 3, "last": 9, "more": 1}]}',
        '{"version": 1, "left_out": [',
        '{"version": "1", "left_out": []}',
        '{"version": 1, "left_out": [], "more": 1}',
        '{"version": 1, "left_out": [{"first": 3, "last": 9223372036854775808}]}',
        '{"version": 1, "left_out": [{"first": 3, "last": 9, "to_step": -1}]}',
        '{"version": 2, "left_out": []}',
        '{"version": 9, "left_out": []}',
        "[" * 9000,
        sound.replace('"first": 20', '"first": 22'),
        sound.replace('"version": 2', '"version": 1'),
    ):
        folder.left_out.write_text(text)
        with pytest.raises(FailedWork, match=r"skipped\.json: cannot be read .* mend it"):
            read_records(folder)
    folder.left_out.write_text('{"version": 1, "left_out": [{"first": 3, "last": 9}]}')
    assert read_records(folder) == (LeftOut(3, 9),), "as a person writes it"
    write_sealed(folder.left_out, {"version": 9, "left_out": []})
    with pytest.raises(UserError, match="version 9 is newer"):
        read_records(folder)
    with pytest.raises(FailedWork, match="cannot be written"):
        write_records(RunFolder(tmp_path / "absent"), records)


def test_version_1_of_the_state_has_no_window() -> None:
    tree = STATE.to_json()
    assert tree["version"] == 2
    old = {name: value for name, value in tree.items() if name != "window"} | {"version": 1}
    assert RunState.from_json(old) == STATE
    for change in ({"window": [[1.0]]}, {"window": [[1.0, float("nan")]]}, {"version": 0}):
        with pytest.raises((FailedWork, ValueError)):
            RunState.from_json({**tree, **change})
