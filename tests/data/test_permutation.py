"""The permutation is a bijection for every size and key, and looks random."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatrain.data.permutation import BlockShuffle, permute


def _permutation(size: int, key: int) -> np.ndarray:
    return permute(np.arange(size), size, np.array(key, np.uint64))


@given(size=st.integers(1, 4000), key=st.integers(0, 2**64 - 1))
def test_bijective(size: int, key: int) -> None:
    assert np.array_equal(np.sort(_permutation(size, key)), np.arange(size))


@given(size=st.integers(1, 2**62), data=st.data())
def test_stays_inside_at_any_size(size: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    there = permute(index, size, np.array(7, np.uint64))
    assert ((there >= 0) & (there < size)).all() and len(set(there.tolist())) == len(index)


def test_each_element_lands_everywhere_alike() -> None:
    # Chi-square of where the first, a middle and the last element land over 4,000 keys. The bounds are
    # the 1 - 1e-6 quantiles of the distribution; keys are fixed, so the test gives one answer.
    for size, bound in ((5, 33.4), (64, 131.9), (101, 184.0)):
        keys = np.arange(4000, dtype=np.uint64)
        for element in (0, size // 2, size - 1):
            there = permute(np.full(4000, element), size, keys)
            observed, expected = np.bincount(there, minlength=size), 4000 / size
            assert ((observed - expected) ** 2 / expected).sum() < bound, (size, element)


def test_neighbours_are_independent() -> None:
    size = 100_003
    for key in range(3):
        order = _permutation(size, key)
        for lag in (1, 2, 317, 318):  # 317 squared is just above the size: the network's own period.
            correlation = np.corrcoef(order[:-lag], order[lag:])[0, 1]
            assert abs(correlation) < 5 / np.sqrt(size), (key, lag)  # Five standard deviations.
        # Neighbours that stay neighbours: Poisson with mean 2 in a random permutation.
        assert (np.abs(np.diff(order)) == 1).sum() < 14
        # Consecutive values over a 10 x 10 grid: chi-square with 99 degrees of freedom, 1 - 1e-6 quantile.
        grid = np.histogram2d(order[:-1], order[1:], bins=10)[0]
        expected = (size - 1) / 100
        assert ((grid - expected) ** 2 / expected).sum() < 182.0


SHUFFLES = st.builds(BlockShuffle, st.integers(1, 60), st.integers(1, 9))


@given(shuffle=SHUFFLES, size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_block_shuffle_is_bijective_and_the_same_for_one_as_for_all(
    shuffle: BlockShuffle, size: int, key: int
) -> None:
    keys = np.array([key], np.uint64)
    whole = shuffle.permute(np.arange(size), size, keys)
    assert np.array_equal(np.sort(whole), np.arange(size))
    some = np.arange(0, size, 7)
    assert np.array_equal(shuffle.permute(some, size, np.full(len(some), key, np.uint64)), whole[::7])


@given(shuffle=SHUFFLES, size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_each_stretch_of_a_block_shuffle_reads_from_few_blocks(
    shuffle: BlockShuffle, size: int, key: int
) -> None:
    there = shuffle.permute(np.arange(size), size, np.array([key], np.uint64))
    length = shuffle.block * shuffle.window
    for first in range(0, size, length):
        # One block more: the short one at the end of the range, which has a place of its own.
        assert len(np.unique(there[first : first + length] // shuffle.block)) <= shuffle.window + 1


@given(size=st.integers(1, 2**62), shuffle=SHUFFLES, data=st.data())
def test_a_block_shuffle_stays_inside_at_any_size(
    size: int, shuffle: BlockShuffle, data: st.DataObject
) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    there = shuffle.permute(index, size, np.array([7], np.uint64))
    assert ((there >= 0) & (there < size)).all() and len(set(there.tolist())) == len(index)


def test_a_block_shuffle_takes_each_block_to_each_place_alike() -> None:
    # 10 blocks of 3 and a short one of 2, in windows of one block, over 4,000 keys: where the first sample of
    # each block lands. Chi-square with 9 degrees of freedom, 1 - 1e-6 quantile.
    shuffle, size = BlockShuffle(3, 1), 32
    keys = np.arange(4000, dtype=np.uint64)
    for place in (0, 15, 31):
        blocks = np.bincount(shuffle.permute(np.full(4000, place), size, keys) // 3, minlength=11)
        assert blocks[:10].min() > 0
        expected = (4000 - blocks[10]) / 10
        assert ((blocks[:10] - expected) ** 2 / expected).sum() < 46.0, place
    # Within a window of all blocks every sample is anywhere.
    there = BlockShuffle(3, 11).permute(np.full(4000, 5), size, keys)
    observed = np.bincount(there, minlength=size)
    assert ((observed - 125) ** 2 / 125).sum() < 84.0  # 31 degrees of freedom
