"""`megatrain train` as users start it: two ranks by a launcher, interrupted, killed, gone on with."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.cluster.launched import STEPS, Home, elsewhere, shared_memory
from tests.distributed.corpus import curve, events, saved_steps


@pytest.mark.timeout(2400)
def test_interrupted_and_gone_on_with_is_the_undisturbed_run(home: Home, undisturbed: Path) -> None:
    before = shared_memory()
    started = home.start("interrupted", environment={"GLOO_SOCKET_IFNAME": "of-the-cluster"})
    started.until_steps(5)
    assert len(started.ranks()) == 2
    listening = started.listening()
    assert listening and elsewhere(listening) == set(), "on one host nothing listens but on the loopback"
    started.process.send_signal(signal.SIGINT)
    assert started.ended() == 75, started.said()
    started.until_gone()
    (step,) = saved_steps(started.run)
    assert 5 <= step < STEPS and max(curve(started.run)) == step
    said = started.said()
    assert "Traceback" not in said and "ERROR" not in said, "an end in good order"

    again = home.start("interrupted")
    assert again.ended() == 0, again.said()
    again.until_gone()
    assert [event["step"] for event in events(again.run, "resume")] == [step]
    assert saved_steps(again.run) == [step, STEPS]
    assert curve(again.run) == curve(undisturbed)
    assert list(curve(undisturbed)) == list(range(1, STEPS + 1))
    assert list(home.temporary.glob("megatrain-*")) == [] and not (again.run / "control").exists()
    assert not list((again.run / "heartbeats").iterdir())
    assert shared_memory() <= before


@pytest.mark.timeout(2400)
def test_without_its_supervisor_a_run_saves_and_ends(home: Home) -> None:
    started = home.start("abandoned", "train.steps=1000000")
    started.until_steps(5)
    started.process.kill()
    assert started.ended() == -signal.SIGKILL
    started.until_gone()
    (step,) = saved_steps(started.run)
    assert [event["step"] for event in events(started.run, "preempt")] == [step]


@pytest.mark.timeout(2400)
def test_a_killed_rank_is_restarted(home: Home, undisturbed: Path) -> None:
    """From the newest checkpoint, and the curve is that of the undisturbed run."""
    started = home.start("killed", "checkpoint.every=20", "resilience.restarts.wait_s=0")
    started.until_steps(25)
    _, second = started.ranks()
    os.kill(second, signal.SIGKILL)
    assert started.ended() == 0, started.said()
    started.until_gone()
    (restart,) = events(started.run, "restart")
    assert "rank 1 ended without a word (killed, or out of memory?); restart 1 in 0 s" in restart["cause"]
    assert f"megatrain: restart at step {restart['step']}: rank 1" in started.said()
    assert started.said().count("\noptimizer:\n") == 1, "the config is shown once"
    assert "\nattempt 2, config as before (killed/config.yaml)\n" in started.said()
    (resumed,) = events(started.run, "resume")
    assert resumed["step"] % 20 == 0 and resumed["step"] >= 20
    assert curve(started.run) == curve(undisturbed)


@pytest.mark.timeout(2400)
def test_the_same_fault_again_ends_with_76(home: Home) -> None:
    """Every start is killed at its second step; no start comes further than the one before."""
    started = home.start(
        "hopeless",
        "resilience.restarts.wait_s=0",
        "resilience.restarts.without_progress=2",
        environment={"MEGATRAIN_FAULT": "point=step,rank=1,hit=2,do=kill"},
    )
    assert started.ended() == 76, started.said()
    started.until_gone()
    (end,) = events(started.run, "give up")
    assert "gave up after 2 restarts, 2 starts in a row without progress: rank 1 ended" in end["cause"]
    assert len(events(started.run, "restart")) == 2 and len(events(started.run, "start")) == 3
    assert saved_steps(started.run) == []


@pytest.mark.timeout(2400)
def test_an_error_that_ranks_find_ends_with_2(home: Home, undisturbed: Path) -> None:
    """One line from rank 0, through the launcher."""
    (source,) = (undisturbed / "checkpoints").iterdir()
    copied = shutil.copytree(source, home.folder / "weights" / source.name)
    started = home.start("refused", f"checkpoint.load_weights_from={copied}", "model.norm_eps=1e-6")
    assert started.ended() == 2
    started.until_gone()
    said = [line for line in started.said().splitlines() if line.startswith("megatrain: ")]
    assert len(said) == 1
    assert "is of another model: model.norm_eps is 1e-05 there and 1e-06" in said[0]
    assert not (started.run / "metrics.jsonl").exists() or not curve(started.run)
