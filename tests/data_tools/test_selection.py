"""Splits and the shuffle: functions of the texts, not of their order."""

import numpy as np

from data_tools.config import Split
from data_tools.selection import shuffle_order, split_of


def _keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def test_splits_have_their_shares_and_added_data_moves_nothing() -> None:
    keys, split = _keys(50_000), Split(validation=0.04, test=0.1)
    which = split_of(keys, split)
    shares = np.bincount(which, minlength=3) / len(keys)
    # Five standard deviations of a binomial share.
    assert np.abs(shares - [0.86, 0.04, 0.1]).max() < 5 * np.sqrt(0.25 / len(keys))
    assert np.array_equal(split_of(np.concatenate([_keys(100, 1), keys[::-1]]), split)[100:], which[::-1])
    # A larger validation split takes from the others; it gives nothing back.
    assert (split_of(keys, Split(validation=0.05, test=0.1))[which == 1] == 1).all()
    assert (split_of(keys, Split(validation=0, test=0)) == 0).all()


def test_the_shuffle_depends_on_texts_and_seed_alone() -> None:
    keys = _keys(1000)
    order = shuffle_order(keys, 0)
    assert len(np.unique(order)) == 1000
    assert np.array_equal(shuffle_order(keys[::-1], 0), order[::-1])
    assert np.array_equal(shuffle_order(keys[500:], 0), order[500:])
    assert abs(np.corrcoef(np.argsort(order), np.argsort(shuffle_order(keys, 1)))[0, 1]) < 0.2
