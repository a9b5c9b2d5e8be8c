"""Best-fit packing: every piece in one row, no row too full, and as few rows as the plain algorithm makes."""

import bisect
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.best_fit import best_fit, pieces_of

ROW = 24
LENGTHS = st.lists(st.integers(1, ROW), max_size=120)


def plain_best_fit(lengths: list[int], row: int) -> list[int]:
    """The room left in each row, by the textbook: piece by piece, from the longest."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        rooms.sort()
        at = bisect.bisect_left(rooms, length)
        rest = (rooms.pop(at) if at < len(rooms) else row) - length
        rooms.append(rest)
    return sorted(rooms)


@given(LENGTHS)
def test_rows_are_those_of_the_textbook(lengths: list[int]) -> None:
    rows, count = best_fit(np.array(lengths, np.int64), ROW)
    filled = np.bincount(rows, weights=lengths, minlength=count).astype(int)
    assert len(filled) == count and (filled <= ROW).all()
    assert sorted((ROW - filled).tolist()) == plain_best_fit(lengths, ROW)


@given(st.lists(st.integers(0, 100), max_size=30))
def test_pieces_make_each_token_but_a_documents_first_a_label_once(lengths: list[int]) -> None:
    bounds = np.concatenate([[5], 5 + np.cumsum(lengths)]).astype(np.int64)
    start, length = pieces_of(bounds, ROW)
    labels = np.concatenate([np.arange(s + 1, s + n) for s, n in zip(start, length, strict=True)] or [[]])
    wanted = [np.arange(a + 1, b) for a, b in pairwise(bounds)]
    assert np.array_equal(labels, np.concatenate([*wanted, []]))
    assert (length <= ROW).all() and (length >= 2).all()
    # A document is cut only where a row cannot hold it.
    assert len(start) == sum(max(0, -(-(n - 1) // (ROW - 1))) for n in lengths)


@pytest.mark.parametrize("row", [129, 2049])
def test_little_room_is_left_over(row: int) -> None:
    # Documents as long as those of the web: median 500 tokens, a long tail.
    lengths = np.random.default_rng(0).lognormal(6.2, 1.0, 20_000).astype(np.int64) + 2
    _, length = pieces_of(np.concatenate([[0], np.cumsum(lengths)]), row)
    _, count = best_fit(length, row)
    assert 1 - length.sum() / (count * row) < 0.002
