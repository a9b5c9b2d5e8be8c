"""The laws of the order of samples."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.data.order import BLOCK, Phase, SampleOrder, quantise
from megatrain.data.permutation import BlockShuffle
from megatrain.errors import UserError

SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 400), min_size=1)


def weights_of(names: Iterable[str]) -> st.SearchStrategy[dict[str, float]]:
    """Of all these sources or of some."""
    return st.dictionaries(st.sampled_from(sorted(names)), st.floats(0.05, 3), min_size=1)


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    """With up to three phases more, short ones and some of several blocks, and either shuffle."""
    sizes = draw(SIZES)
    weights = draw(st.none() | weights_of(sizes))
    lengths = draw(st.lists(st.sampled_from([1, 700, 1000, 3 * BLOCK // 2]), max_size=3))
    later = [
        Phase(first, draw(st.none() | weights_of(sizes))) for first in np.cumsum(lengths).astype(int).tolist()
    ]
    shuffle = draw(st.none() | st.builds(BlockShuffle, st.integers(1, 40), st.integers(1, 5)))
    return SampleOrder(sizes, weights, draw(st.integers(0, 2**40)), later=later, shuffle=shuffle)


@settings(max_examples=25, deadline=None)
@given(orders(), st.integers(0, 3 * BLOCK), st.integers(1, 3000), st.integers(1, 700))
def test_the_cut_into_batches_changes_nothing(order: SampleOrder, start: int, count: int, batch: int) -> None:
    whole = order.locate(start, count)
    parts = [order.locate(at, min(batch, start + count - at)) for at in range(start, start + count, batch)]
    for name in ("source", "window", "epoch"):
        assert np.array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))


@settings(max_examples=15, deadline=None)
@given(orders())
def test_every_window_once_an_epoch_and_epochs_one_after_the_other(order: SampleOrder) -> None:
    located = order.locate(0, BLOCK + 5000)  # Over the edge of a block.
    for number, size in enumerate(order.sizes):
        mine = located.source == number
        epoch, window = located.epoch[mine], located.window[mine]
        assert (np.diff(epoch) >= 0).all()
        assert order.drawn(BLOCK + 5000)[order.sources[number]] == len(epoch)
        whole = len(epoch) // size
        assert np.array_equal(epoch, np.arange(len(epoch)) // size)
        by_epoch = np.sort(window[: whole * size].reshape(whole, size), axis=1)
        assert (by_epoch == np.arange(size)).all()


def phased(*later: Phase, shuffle: BlockShuffle | None = None) -> SampleOrder:
    return SampleOrder({"a": 500, "b": 70, "c": 9000}, {"a": 3, "b": 1}, seed=5, later=later, shuffle=shuffle)


def test_a_phase_takes_what_its_weights_say() -> None:
    # "b" is not drawn in the second phase, "c" only there; in the third all are.
    firsts = (0, 100_000, 300_000)
    order = phased(Phase(firsts[1], {"a": 1, "c": 1}), Phase(firsts[2], {"a": 1, "b": 1, "c": 2}))
    wanted = [(0.75, 0.25, 0), (0.5, 0, 0.5), (0.25, 0.25, 0.5)]
    assert order.sources == ("a", "b", "c") and order.slots == (49_152, 16_384, 0)
    for first, shares in zip(firsts, wanted, strict=True):
        # Exactly, in each whole block of a phase.
        for block in (0, 1) if first else (0,):
            found = order.locate(first + block * BLOCK, BLOCK).source
            assert np.bincount(found, minlength=3).tolist() == [share * BLOCK for share in shares]
    around = order.locate(firsts[1] - 50, 100).source
    assert 2 not in around[:50] and 1 not in around[50:]


def test_a_source_goes_on_where_the_phase_before_left_it() -> None:
    order = phased(Phase(900, {"b": 1}), Phase(1000, {"a": 1, "b": 2, "c": 1}))
    found = order.locate(0, 3000)
    for which, size in enumerate(order.sizes):
        mine = found.source == which
        epoch, window = found.epoch[mine], found.window[mine]
        assert np.array_equal(epoch, np.arange(len(epoch)) // size)
        for number in range(len(epoch) // size):
            assert np.array_equal(np.sort(window[number * size : (number + 1) * size]), np.arange(size))
    assert found.epoch[found.source == 1].max() > 3, "several epochs, over both borders"


def test_what_comes_later_does_not_change_what_was() -> None:
    plain, one, two = (
        phased(),
        phased(Phase(1000, {"c": 1})),
        phased(Phase(1000, {"c": 1}), Phase(2000, None)),
    )
    for count, pair in ((1000, (plain, one)), (2000, (one, two))):
        first, second = (order.locate(0, count) for order in pair)
        names = [np.array(order.sources) for order in pair]
        assert (names[0][first.source] == names[1][second.source]).all()
        assert np.array_equal(first.window, second.window) and np.array_equal(first.epoch, second.epoch)


def test_phases_far_away_are_found_at_once() -> None:
    # A trillion tokens of 2,048 are half a billion samples: found without looking at what lies before.
    sizes = {"web": 400_000_000, "books": 9_000_000}
    far = 300_000_007
    order = SampleOrder(sizes, {"web": 9, "books": 1}, 1, later=[Phase(far, {"web": 1, "books": 1})])
    before, after = order.locate(far - BLOCK, BLOCK), order.locate(far, BLOCK)
    books = order.sources.index("books")
    assert abs(before.epoch[before.source == books].max() - 0.1 * far // 9_000_000) <= 1
    one, other = before.window[before.source == books], after.window[after.source == books]
    assert not set(one.tolist()) & set(other.tolist()), "no window twice within an epoch"


def test_a_block_shuffle_keeps_near_what_is_near() -> None:
    shuffle = BlockShuffle(block=50, window=4)
    order = SampleOrder({"a": 10_000}, None, 3, shuffle=shuffle)
    window = order.locate(0, 10_000).window
    for first in range(0, 10_000, 200):
        assert len(np.unique(window[first : first + 200] // 50)) == 4
    assert len(np.unique(SampleOrder({"a": 10_000}, None, 3).locate(0, 200).window // 50)) > 100


def test_each_block_holds_exactly_the_slots() -> None:
    order = SampleOrder({"a": 10, "b": 7, "c": 1000}, {"a": 0.5, "b": 0.2, "c": 0.3}, seed=1)
    assert sum(order.slots) == BLOCK
    for block in (0, 1, 9):
        assert tuple(np.bincount(order.locate(block * BLOCK, BLOCK).source)) == order.slots
    # And any stretch is near the weights: five standard deviations of a draw without memory.
    share = np.bincount(order.locate(1234, 4000).source) / 4000
    assert np.abs(share - [0.5, 0.2, 0.3]).max() < 5 * np.sqrt(0.25 / 4000)


def test_epochs_and_blocks_and_seeds_and_sources_are_shuffled_differently() -> None:
    order = SampleOrder({"a": 1000, "b": 1000}, None, seed=0)
    located = order.locate(0, 2 * BLOCK)
    windows = {
        (source, epoch): located.window[(located.source == source) & (located.epoch == epoch)].tolist()
        for source in (0, 1)
        for epoch in (0, 1, 40)
    }
    assert len({tuple(order) for order in windows.values()}) == 6
    assert not np.array_equal(located.source[:BLOCK], located.source[BLOCK:])
    other = SampleOrder({"a": 1000, "b": 1000}, None, seed=1).locate(0, 100)
    assert not np.array_equal(other.window, located.window[:100])


def test_the_order_never_changes() -> None:
    # Golden: runs in progress would see other data after a resume if this changed.
    order = SampleOrder({"b": 5000, "a": 300}, {"a": 1, "b": 3}, seed=1234)
    located = order.locate(70_000, 8)
    assert order.sources == ("a", "b") and order.slots == (16384, 49152)
    assert located.source.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    assert located.window.tolist() == [2946, 4426, 46, 63, 4815, 1338, 2927, 1654]
    assert located.epoch.tolist() == [10, 10, 58, 58, 10, 10, 10, 10]
    assert order.fingerprint == "bf069e3650b8e4429f3fc38167274eee"


@given(st.dictionaries(st.text(min_size=1), st.floats(0.1, 100), min_size=1, max_size=30))
def test_weights_are_quantised_to_the_nearest_slot_and_sum_exactly(weights: dict[str, float]) -> None:
    slots = quantise(weights)
    exact = np.array(list(weights.values())) / sum(weights.values()) * BLOCK
    assert sum(slots) == BLOCK and np.abs(np.array(slots) - exact).max() < 1


def test_fingerprint_tells_orders_apart() -> None:
    base = SampleOrder({"a": 10, "b": 10}, None, 0)
    others = [
        SampleOrder({"a": 10, "b": 10}, None, 1),
        SampleOrder({"a": 10, "b": 11}, None, 0),
        SampleOrder({"a": 10, "c": 10}, None, 0),
        SampleOrder({"a": 10, "b": 10}, {"a": 1, "b": 2}, 0),
        SampleOrder({"a": 10, "b": 10}, None, 0, later=[Phase(5, {"a": 1, "b": 2})]),
        SampleOrder({"a": 10, "b": 10}, None, 0, later=[Phase(6, {"a": 1, "b": 2})]),
        SampleOrder({"a": 10, "b": 10}, None, 0, later=[Phase(5, {"a": 1, "b": 3})]),
        SampleOrder({"a": 10, "b": 10}, None, 0, shuffle=BlockShuffle(4, 2)),
        SampleOrder({"a": 10, "b": 10}, None, 0, shuffle=BlockShuffle(2, 4)),
    ]
    assert len({order.fingerprint for order in [base, *others]}) == 10
    assert SampleOrder({"b": 10, "a": 10}, {"b": 2.0, "a": 2.0}, 0).fingerprint == base.fingerprint


@pytest.mark.parametrize(
    ("sizes", "weights", "named"),
    [
        ({}, None, "no source"),
        ({"a": 10, "small": 0}, None, "'small' is smaller than one sample"),
        ({"a": 10}, {"b": 1.0}, "'b' has a weight but no data"),
        ({"a": 10, "b": 10}, {"a": 1.0, "b": 1e-9}, "'b'"),
        ({"a": 10, "b": 10}, {"a": 1.0, "b": 0.0}, "'b'"),
        ({"a": 10, "b": 10}, {"a": 1.0, "b": float("nan")}, "'b'"),
        ({"a": 10_000_000, "b": 1}, None, "'b'"),
    ],
)
def test_impossible_mixtures_are_refused(sizes: dict, weights: dict | None, named: str) -> None:
    with pytest.raises(UserError, match=named):
        SampleOrder(sizes, weights, 0)


def test_a_source_without_weight_is_left_out() -> None:
    order = SampleOrder({"a": 10, "b": 0}, {"a": 1.0}, 0)
    assert order.sources == ("a",)
