"""Shards fetched ahead: the next ones by the order, so many and no more, from wherever training is."""

import threading
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from megatrain.data import lookahead as lookahead_module
from megatrain.data.lookahead import Lookahead
from megatrain.data.order import SampleOrder
from megatrain.data.permutation import BlockShuffle
from megatrain.data.rows import Ints
from megatrain.data.skipped import Ranges, samples

S = 16
ROWS = np.arange(4)
SHARD = 10  # samples of each


class Shards:
    """Shards of two sources, and which of them were fetched; the one that is told fails."""

    def __init__(self, fails: tuple[str, int] | None = None) -> None:
        self.fetched: list[tuple[str, int]] = []
        self._near: set[tuple[str, int]] = set()
        self._fails = fails
        self.changed = threading.Condition()

    def shards_of(self, source: str, ids: Ints, sequence_length: int) -> Ints:
        assert sequence_length == S
        return ids // SHARD

    def fetch(self, source: str, shard: int) -> bool:
        with self.changed:
            if (source, shard) in self._near:
                return False
            self.fetched.append((source, shard))
            self.changed.notify_all()
            if (source, shard) == self._fails:
                raise OSError("cannot be reached")
            self._near.add((source, shard))
            return True

    def was_read(self, shards: Iterable[tuple[str, int]]) -> None:
        """What the loader needs it brings near itself."""
        with self.changed:
            self._near |= set(shards)

    def wait(self, until: set[tuple[str, int]]) -> set[tuple[str, int]]:
        """What was fetched, as soon as these were and nothing more comes."""
        with self.changed:
            assert self.changed.wait_for(lambda: until <= {*self.fetched}, timeout=20)
            while self.changed.wait(timeout=0.1):
                pass
            return set(self.fetched)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead_module, "CHUNK", 16)
    monkeypatch.setattr(lookahead_module, "FARTHEST", 200)


@pytest.fixture
def order() -> SampleOrder:
    return SampleOrder({"a": 300, "b": 100}, None, seed=1, shuffle=BlockShuffle(10, 2))


def needed(order: SampleOrder, first: int, count: int, skipped: Ranges = ()) -> list[tuple[str, int]]:
    """The shards of samples from a place on, in the order in which they are needed, each once."""
    found = order.find(samples(first, count, skipped))
    pairs = zip(found.source.tolist(), (found.window // SHARD).tolist(), strict=True)
    return list(dict.fromkeys((order.sources[source], shard) for source, shard in pairs))


@pytest.fixture
def started(order: SampleOrder) -> Iterator[tuple[Lookahead, Shards]]:
    shards = Shards()
    ahead = Lookahead(shards, order, rows=ROWS, global_batch=4, sequence_length=S, ahead=3)
    yield ahead, shards
    ahead.close()


def test_the_next_shards_and_no_more(order: SampleOrder, started: tuple[Lookahead, Shards]) -> None:
    ahead, shards = started
    assert shards.wait(set()) == set(), "nothing before training says where it is"
    ahead.reached(0, ())
    assert shards.wait(set(needed(order, 0, 400)[:3])) == set(needed(order, 0, 400)[:3])
    for place in range(12, 120, 12):
        before, every = needed(order, 0, place), needed(order, 0, 400)
        shards.was_read(before)
        ahead.reached(place, ())
        next_ones = [shard for shard in every if shard not in before][:3]
        assert shards.wait(until=set(next_ones)) <= {*before, *next_ones}


def test_after_a_jump_those_of_the_new_place(order: SampleOrder, started: tuple[Lookahead, Shards]) -> None:
    ahead, shards = started
    known: set[tuple[str, int]] = set()
    places: list[tuple[int, Ranges]] = [(0, ()), (2000, ()), (400, ()), (400, ((300, 1700),))]
    for place, skipped in places:
        ahead.reached(place, skipped)
        there = [shard for shard in needed(order, place, 400, skipped) if shard not in known][:3]
        known |= set(there)
        assert shards.wait(set(there)) == known


def test_a_shard_that_cannot_be_fetched_is_passed_over(order: SampleOrder) -> None:
    wanted = needed(order, 0, 400)
    shards = Shards(fails=wanted[1])
    ahead = Lookahead(shards, order, rows=ROWS, global_batch=4, sequence_length=S, ahead=2)
    ahead.reached(0, ())
    assert shards.wait(set(wanted[:3])) == set(wanted[:3])
    ahead.close()


def test_no_farther_than_needed(order: SampleOrder) -> None:
    """Where all shards are near already, it does not run through the whole epoch."""
    shards = Shards()
    shards.fetch = lambda source, shard: shards.fetched.append((source, shard)) or False  # type: ignore
    ahead = Lookahead(shards, order, rows=ROWS, global_batch=4, sequence_length=S, ahead=2)
    ahead.reached(0, ())
    seen = 0
    while seen != len(shards.fetched) or not seen:
        seen = len(shards.fetched)
        threading.Event().wait(0.2)
    ahead.close()
    assert set(shards.fetched) <= set(needed(order, 0, 200 + 16)), "what lies 200 samples ahead at most"
