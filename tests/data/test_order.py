"""The laws of the order of samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.data.order import BLOCK, SampleOrder, quantise
from megatrain.errors import UserError

SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 400), min_size=1)


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    sizes = draw(SIZES)
    weights = draw(st.none() | st.fixed_dictionaries({name: st.floats(0.05, 3) for name in sizes}))
    return SampleOrder(sizes, weights, draw(st.integers(0, 2**40)))


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
        whole = len(epoch) // size
        assert np.array_equal(epoch, np.arange(len(epoch)) // size)
        by_epoch = np.sort(window[: whole * size].reshape(whole, size), axis=1)
        assert (by_epoch == np.arange(size)).all()


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
    ]
    assert len({order.fingerprint for order in [base, *others]}) == 5
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
