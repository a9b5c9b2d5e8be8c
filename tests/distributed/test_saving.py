"""When a run saves: by the clock, by a signal, not while it is still writing; what is kept; in which
precision it goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from tests.distributed.corpus import Play, curve, evaluations, events, play_runs, run_config, saved_steps
from tests.distributed.ranks import run_ranks

SLOW = "point=checkpoint.write,rank=1,hit=1+,do=slow,seconds=0.3"


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saving")

    def play(name: str, *options: str, **deeds: object) -> Play:
        return Play(run_config(corpus, folder / name, "checkpoint.every=100", *options), **deeds)  # type: ignore[arg-type]

    plays = [
        play("whole"),
        play("clock", "checkpoint.every_minutes=1e-9", "checkpoint.keep=99"),
        play("signal", signals={3: (1, signal.SIGUSR2), 6: (0, signal.SIGUSR2)}),
        play("skip", "checkpoint.every=1", "checkpoint.when_busy=skip", "checkpoint.keep=99", fault=SLOW),
        play("wait", "checkpoint.every=3", "checkpoint.keep=99", fault=SLOW),
        play("plain", "checkpoint.every=4", "checkpoint.background=false", fault=SLOW),
        play(
            "kept",
            "checkpoint.every=2",
            "checkpoint.keep=1",
            "checkpoint.keep_every=6",
            "checkpoint.keep_best=1",
            "evaluate.every=2",
            "evaluate.windows=3",
            "schedule.kind=constant",
            "schedule.learning_rate=1",
            "optimizer.beta1=0",
            "optimizer.clip=0",
        ),
        # The save at step 4 took longer than what is left after the signal.
        play("late", "checkpoint.every=4", "resilience.grace_s=0.2", terminate={6: 0}, fault=SLOW),
        play("bf16", "precision.dtype=bf16", terminate={4: 0}),
    ]
    ends = ["done"] * 7 + ["preempted"] * 2
    assert run_ranks(play_runs, 2, plays) == [ends] * 2
    again = [play("bf16"), play("bf16", "checkpoint.allow_precision_change=true")]
    refused, done = run_ranks(play_runs, 2, again)[0]
    assert done == "done" and refused.startswith("UserError: ")
    assert "was trained with precision.dtype=bf16, the config says fp32; set" in refused
    return folder


def commits(folder: Path) -> list[int]:
    return [event["step"] for event in events(folder, "commit")]


def test_by_the_clock(folder: Path) -> None:
    """At every step, for the time is over at each; the run is what it was."""
    assert commits(folder / "clock") == list(range(1, 11)) == saved_steps(folder / "clock")
    assert curve(folder / "clock") == curve(folder / "whole")


def test_a_signal_to_any_rank_saves_and_goes_on(folder: Path) -> None:
    assert commits(folder / "signal") == [4, 7, 10]
    assert curve(folder / "signal") == curve(folder / "whole")


def test_while_it_still_writes(folder: Path) -> None:
    """Left out, and said so; or waited for, and counted as a stall. The end is saved in any case."""
    skipped = [event["step"] for event in events(folder / "skip", "save") if "left out" in event["cause"]]
    assert skipped and sorted(skipped + commits(folder / "skip")) == list(range(1, 11))
    assert commits(folder / "skip")[-1] == 10
    assert commits(folder / "wait") == [3, 6, 9, 10]
    assert commits(folder / "plain") == [4, 8, 10]
    for name in ("skip", "wait", "plain"):
        assert curve(folder / name) == curve(folder / "whole"), name
    text = (folder / "plain" / "metrics.jsonl").read_text().splitlines()
    stalls = [float(line.split('"ckpt_stall_s":')[1].split(",")[0]) for line in text]
    assert [stall > 0.3 for stall in stalls] == [step in (5, 9) for step in range(1, 11)]


def test_what_is_kept(folder: Path) -> None:
    """The newest, the multiples of 6, and the one with the lowest validation loss of its own step."""
    run = folder / "kept"
    losses = {step: results["all"]["loss"] for step, results in evaluations(run).items()}
    best = min(losses, key=lambda step: losses[step])
    assert best not in (6, 10), "else the rule is not seen at work"
    assert saved_steps(run) == sorted({best, 6, 10})
    place = LocalPlace(run / "checkpoints")
    assert Checkpoint(f"step-{best:08d}", place).manifest.validation_loss == losses[best]


def test_what_cannot_be_saved_in_time_is_not_begun(folder: Path) -> None:
    assert saved_steps(folder / "late") == [4]
    (event,) = events(folder / "late", "fault")
    assert event["cause"] == "not saved: the time left after the signal is too short"
    assert [event["step"] for event in events(folder / "late", "preempt")] == [7]


def test_another_precision_on_purpose(folder: Path) -> None:
    (resumed,) = events(folder / "bf16", "resume")
    assert resumed["step"] == 5 and list(curve(folder / "bf16")) == list(range(1, 11))
    for step in range(1, 11):
        assert curve(folder / "bf16")[step][0] == pytest.approx(curve(folder / "whole")[step][0], rel=2e-2)
        assert curve(folder / "bf16")[step][3:] == curve(folder / "whole")[step][3:]
