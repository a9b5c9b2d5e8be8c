"""A slow rank is named, whatever the fast ones wait; a fault is rehearsed by the config."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.corpus import Play, curve, events, play_runs, run_config
from tests.distributed.ranks import run_ranks


def test_a_slow_rank_is_named(corpus: Path, tmp_path: Path) -> None:
    slow = "faults=[{at: forward, rank: 1, do: slow, seconds: 0.1, again: true}]"
    watch = "resilience.stragglers.every=4"
    plays = [
        Play(run_config(corpus, tmp_path / "slow", watch, slow)),
        Play(run_config(corpus, tmp_path / "even", watch, "resilience.stragglers.least_s=0.1", "faults=[]")),
    ]
    assert run_ranks(play_runs, 2, plays) == [["done", "done"]] * 2
    told = events(tmp_path / "slow", "slow")
    assert [event["step"] for event in told] == [4, 8]
    assert all(event["rank"] == 1 and event["own_s"] >= 0.1 for event in told)
    assert "times as long as the others" in told[0]["cause"] and "rank 1 on " in told[0]["cause"]
    assert events(tmp_path / "even", "slow") == []
    assert curve(tmp_path / "slow") == curve(tmp_path / "even")
