"""A slow rank is named, whatever the fast ones wait and whatever it is slow at; a fault is rehearsed by the
config."""

from __future__ import annotations

import socket
from pathlib import Path

from megatrain.observe.balance import read_balance
from megatrain.observe.history import read_metrics
from megatrain.state import RunFolder
from tests.distributed.corpus import Play, curve, events, play_runs, run_config
from tests.distributed.ranks import run_ranks


def test_a_slow_rank_is_named(corpus: Path, tmp_path: Path) -> None:
    """Slow in its forward pass, and slow after its step, when the others wait in the next one."""
    watch = "resilience.stragglers.every=4"
    plays = [
        Play(run_config(corpus, tmp_path / "even", watch, "resilience.stragglers.least_s=2", "faults=[]")),
        *(
            Play(
                run_config(
                    corpus,
                    tmp_path / at,
                    watch,
                    "resilience.stragglers.least_s=0.05",
                    f"faults=[{{at: {at}, rank: 1, do: slow, seconds: 0.2, again: true}}]",
                )
            )
            for at in ("forward", "step")
        ),
    ]
    assert run_ranks(play_runs, 2, plays) == [["done"] * 3] * 2
    for at in ("forward", "step"):
        told = events(tmp_path / at, "slow")
        assert [event["step"] for event in told] == [4, 8]
        for event in told:
            assert event["rank"] == 1 and event["host"] == socket.gethostname() and event["own_s"] >= 0.2
            assert event["comm_wait_s"] < event["others_comm_wait_s"]
        assert "times as long as the others" in told[0]["cause"] and "rank 1 on " in told[0]["cause"]
        steps = read_metrics(RunFolder(tmp_path / at))
        assert [step["slow"] for step in steps] == [None] * 4 + [f"rank 1 on {socket.gethostname()}"] * 6
        assert steps[0]["comm_wait_s"] is None and all(
            0 <= step["comm_wait_s"] <= step["comm_wait_most_s"] for step in steps[1:]
        )
        share, named = read_balance(RunFolder(tmp_path / at))
        assert share.startswith("in collectives ") and named.startswith("slow: rank 1 on ")
        assert curve(tmp_path / at) == curve(tmp_path / "even")
    assert events(tmp_path / "even", "slow") == []
