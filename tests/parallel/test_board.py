"""Notes are read by whoever waits for them, in a thread, beside collectives; one that does not come is a
time-out."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from megatrain.config import Config
from megatrain.parallel.board import Board
from megatrain.parallel.collectives import broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, play, tiny


def test_alone() -> None:
    board = Board(1)
    board.post("a", "1")
    assert board.read("a", 0.01) == "1" and board.read("a", 0.01) == "1"
    board.take_down("a")
    with pytest.raises(TimeoutError, match=r"no a within 0\.01 s"):
        board.read("a", 0.01)
    threading.Timer(0.1, board.post, ("b", "späť 。")).start()
    assert board.read("b", 30) == "späť 。"


def plain(rank: int) -> dict[str, Any]:
    return {
        "rank": rank,
        "text": "火\udc80" * 999 * rank,
        "list": [None, True, 0.1, float("inf"), 2**63 + rank],
    }


def test_ranks_exchange_plain_data_alone() -> None:
    """The same on one rank as on many; nothing that would need a pickle."""
    one = ParallelContext.single().world
    assert gather_objects(plain(1), one) == [plain(1)] == [broadcast_object(plain(1), one)]
    assert gather_objects((1, ("a",)), one) == [[1, ["a"]]]
    for other in ({1}, {1: 2}, b"bytes", Path("x"), one, [object()]):
        with pytest.raises(TypeError, match="is not plain data; send its fields"):
            gather_objects(other, one)


def across(config: Config, context: ParallelContext) -> dict[str, Any]:
    board, rank = Board(context.world.size), context.world.rank
    told: dict[str, Any] = {}

    def wait() -> None:
        told["theirs"] = board.read(f"from {1 - rank}", 60)

    thread = threading.Thread(target=wait)
    thread.start()
    # Collectives, and the store that they need, are free while the thread waits.
    told["collective"] = [broadcast_object(n, context.world) for n in range(20)]
    told["gathered"] = gather_objects(plain(rank), context.world)
    board.post(f"from {rank}", "x" * 1_000_000 + f"äö {rank}")
    thread.join()
    try:
        board.read("never", 0.2)
    except TimeoutError as error:
        told["late"] = str(error)
    board.post(f"again {rank}", "still good")
    told["after"] = board.read(f"again {1 - rank}", 60)
    return told


def test_across_ranks() -> None:
    for rank, (told,) in enumerate(run_ranks(play, 2, [act(across, tiny())])):
        assert told["theirs"] == "x" * 1_000_000 + f"äö {1 - rank}"
        assert told["gathered"] == [plain(0), plain(1)]
        assert told["collective"] == list(range(20)) and told["after"] == "still good"
        assert told["late"].startswith("no never within 0.2 s")
