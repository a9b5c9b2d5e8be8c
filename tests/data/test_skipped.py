"""The order without ranges: never a skipped sample, none lost, none twice."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.data.dataset import TokenDataset
from megatrain.data.loader import Loader
from megatrain.data.order import SampleOrder
from megatrain.data.skipped import covers, merged, sample, samples
from tests.data.test_loader import EOS as EOS
from tests.data.test_loader import S, dataset  # noqa: F401 - a fixture

RANGES = st.lists(
    st.tuples(st.integers(0, 120), st.integers(0, 30)).map(lambda r: (r[0], r[0] + r[1])), max_size=8
).map(tuple)


def plain(count: int, ranges: tuple[tuple[int, int], ...]) -> list[int]:
    """By looking at every sample."""
    found, at = [], 0
    while len(found) < count:
        if not any(first <= at < last for first, last in ranges):
            found.append(at)
        at += 1
    return found


@given(RANGES, st.integers(0, 200), st.integers(0, 60), st.integers(1, 17))
def test_samples(ranges: tuple[tuple[int, int], ...], start: int, count: int, batch: int) -> None:
    """In any cut into batches, and whichever way the ranges are written down."""
    wanted = plain(start + count, ranges)[start:]
    assert samples(start, count, ranges).tolist() == wanted
    assert samples(start, count, merged(ranges)).tolist() == wanted
    parts = [samples(at, min(batch, start + count - at), ranges) for at in range(start, start + count, batch)]
    assert [n for part in parts for n in part.tolist()] == wanted
    assert all(sample(start + n, ranges) == one for n, one in enumerate(wanted))


@given(RANGES, st.integers(0, 120), st.integers(1, 30))
def test_merged_and_covered(ranges: tuple[tuple[int, int], ...], first: int, count: int) -> None:
    left_out = {n for a, b in ranges for n in range(a, b)}
    tidy = merged(ranges)
    assert {n for a, b in tidy for n in range(a, b)} == left_out
    assert all(a < b for a, b in tidy)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(tidy))
    assert covers(ranges, first, first + count) == (set(range(first, first + count)) <= left_out)


@settings(max_examples=10, deadline=None)
@given(RANGES, st.integers(0, 100))
def test_each_sample_is_the_same_window_with_or_without_others(
    ranges: tuple[tuple[int, int], ...], start: int
) -> None:
    order = SampleOrder({"a": 40, "b": 30}, None, seed=3)
    whole, ids = order.locate(0, 600), samples(start, 50, ranges)
    found = order.find(ids)
    for name in ("source", "window", "epoch"):
        assert np.array_equal(getattr(found, name), getattr(whole, name)[ids])


def test_the_loader_follows_on_every_layout_and_ahead(dataset: TokenDataset) -> None:  # noqa: F811
    """Ranges that begin to be skipped while batches are made ahead; then back to where it was."""
    order = SampleOrder({name: dataset.windows(name, S) for name in ("a", "b")}, None, seed=1)

    def loader(rank: int, dp_size: int, prefetch: int) -> Loader:
        return Loader(
            dataset,
            order,
            global_batch=6,
            micro_batch=2,
            dp_rank=rank,
            dp_size=dp_size,
            sequence_length=S,
            documents="start",
            prefetch=prefetch,
        )

    for dp_size in (1, 2, 4):
        ranks = [loader(rank, dp_size, 2) for rank in range(dp_size)]
        for consumed, skipped in ((0, ()), (6, ()), (6, ((8, 13),)), (12, ((8, 13),)), (12, ()), (18, ())):
            parts = [rank.batch(consumed, skipped).sample_ids for rank in ranks]
            taken = sorted(n for part in parts for n in part.tolist() if n >= 0)
            assert taken == plain(consumed + 6, skipped)[consumed:]
        for rank in ranks:
            rank.close()
