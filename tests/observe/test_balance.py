"""What ranks waited for each other, in words."""

from __future__ import annotations

from typing import Any

from megatrain.observe.balance import slow_ranks, waiting


def step(least: float | None, most: float | None) -> dict[str, Any]:
    return {"step": 1, "step_s": 2.0, "comm_wait_s": least, "comm_wait_most_s": most}


def slow(step: int, rank: int, ratio: float) -> dict[str, Any]:
    return {"event": "slow", "step": step, "rank": rank, "host": f"node{rank}", "ratio": ratio}


def test_share_of_the_steps() -> None:
    (line,) = waiting([step(None, None), step(0.0, 0.5), step(0.2, 1.5)])
    assert line == "in collectives 5.0% of the steps' time, 50.0% on the rank that waits most"
    assert waiting([step(None, None)]) == waiting([{"step": 1, "step_s": 1.0}]) == [], "no figure is no 0"


def test_slow_ranks() -> None:
    """An event of an older run, which names no host, is left out."""
    older = {"event": "slow", "step": 1, "rank": 3, "ratio": 2.0}
    told = slow_ranks([older, slow(4, 0, 2.0), slow(8, 1, 1.75), slow(12, 1, 1.5), {"event": "end"}])
    assert told == [
        "slow: rank 1 on node1, named 2 times, last at step 12: 1.5 times as long as the others",
        "slow: rank 0 on node0, named 1 times, last at step 4: 2.0 times as long as the others",
    ]
