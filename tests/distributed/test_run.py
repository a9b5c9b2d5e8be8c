"""A whole run from its config: stopped, preempted, saved on demand, gone on with, evaluated on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.distributed.corpus import Play, curve, evaluations, events, play_runs, run_config, saved_steps
from tests.distributed.ranks import run_ranks

DIVERGED = (
    "FailedWork: 2 steps in a row were skipped after step 1, and there is no checkpoint from before to go "
    "back to; see events.jsonl"
)
KINDS = {
    "unbroken": "done",
    "stopped": "asked",
    "preempted": "preempted",
    "saved": "done",
    "paused": "asked",
    "diverged": DIVERGED,
}


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that were interrupted in several ways, each gone on with by new processes."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("parallel.zero=2", "evaluate.every=3", "evaluate.windows=3")
    plays = {
        "unbroken": Play(run_config(corpus, folder / "unbroken", *options)),
        "stopped": Play(run_config(corpus, folder / "stopped", *options), touch={5: "STOP"}),
        "preempted": Play(run_config(corpus, folder / "preempted", *options), terminate={2: 1}),
        "saved": Play(run_config(corpus, folder / "saved", *options), touch={1: "SAVE"}),
        "paused": Play(run_config(corpus, folder / "paused", *options, "train.stop_after=6")),
        # The first update makes weights of 1e37, whose squares are not finite.
        "diverged": Play(
            run_config(
                corpus,
                folder / "diverged",
                *options,
                "schedule.learning_rate=1e38",
                "resilience.max_skipped_in_row=2",
                "checkpoint.every=2",
            )
        ),
    }
    for by_rank in run_ranks(play_runs, 2, list(plays.values())):
        assert dict(zip(plays, by_rank, strict=True)) == KINDS
    for name in plays:
        shutil.copytree(folder / name, folder / "before" / name)
    again = [Play(play.config) for name, play in plays.items() if name != "diverged"]
    again.append(Play(run_config(corpus, folder / "paused", *options)))
    for by_rank in run_ranks(play_runs, 2, again):
        assert by_rank == ["done"] * 6
    return folder


def test_an_interrupted_run_is_the_unbroken_one(folder: Path) -> None:
    """Every loss, norm, learning rate, counter and evaluation is equal, bit for bit."""
    unbroken = curve(folder / "unbroken")
    assert list(unbroken) == list(range(1, 11))
    assert unbroken[10][0] < unbroken[1][0]
    assert list(evaluations(folder / "unbroken")) == [3, 6, 9, 10]
    for name in ("stopped", "preempted", "saved", "paused"):
        assert curve(folder / name) == unbroken
        assert evaluations(folder / name) == evaluations(folder / "unbroken")


def test_a_stop_ends_the_step_and_loses_nothing(folder: Path) -> None:
    """STOP after step 5 is seen in step 6, a signal to rank 1 after step 2 in step 3 by all ranks."""
    for name, step, kind in (("stopped", 6, "stop"), ("preempted", 3, "preempt")):
        before = folder / "before" / name
        assert list(curve(before)) == list(range(1, step + 1))
        assert saved_steps(before)[-1] == step
        assert [event["step"] for event in events(before, kind)] == [step]
        assert [event["step"] for event in events(folder / name, "resume")] == [step]
        assert not (folder / name / "STOP").exists(), "it would stop the next start too"


def test_a_pause_keeps_the_schedule_and_stays(folder: Path) -> None:
    """train.stop_after: saved and stopped there; again it goes no further, without the key it does."""
    assert list(curve(folder / "before" / "paused")) == [1, 2, 3, 4, 5, 6]
    assert saved_steps(folder / "before" / "paused") == [4, 6]
    assert [event["step"] for event in events(folder / "paused", "resume")] == [6, 6]
    assert [event["step"] for event in events(folder / "paused", "end")] == [6, 10]


def test_saves_are_when_due_and_when_asked_for(folder: Path) -> None:
    assert [event["step"] for event in events(folder / "unbroken", "commit")] == [4, 8, 10]
    assert [event["step"] for event in events(folder / "saved", "commit")] == [2, 4, 8, 10]
    assert saved_steps(folder / "saved") == [4, 8, 10], "checkpoint.keep is 3"
    assert not (folder / "saved" / "SAVE").exists()


def test_a_finished_run_started_again_changes_nothing(folder: Path) -> None:
    """No step, no checkpoint, no evaluation; only the events say that it was started."""
    before, after = folder / "before" / "unbroken", folder / "unbroken"
    assert (before / "metrics.jsonl").read_bytes() == (after / "metrics.jsonl").read_bytes()
    for path in before.glob("checkpoints/*/*"):
        assert path.read_bytes() == (after / path.relative_to(before)).read_bytes()
    assert [event["step"] for event in events(after, "end")] == [10, 10]


def test_attempts_are_numbered(folder: Path) -> None:
    text = (folder / "stopped" / "metrics.jsonl").read_text()
    assert text.count('"attempt":1') + text.count('"attempt": 1') == 6
    assert text.count('"attempt":2') + text.count('"attempt": 2') == 4


def test_too_many_skipped_steps_end_the_run(folder: Path) -> None:
    told = {step: record[-1] for step, record in curve(folder / "diverged").items()}
    assert told == {1: False, 2: True, 3: True}
    assert [event["step"] for event in events(folder / "diverged", "skip")] == [2, 3]
    (fail,) = events(folder / "diverged", "fail")
    assert fail["step"] == 3 and f"FailedWork: {fail['cause']}" == DIVERGED
    assert events(folder / "unbroken", "fail") == []
