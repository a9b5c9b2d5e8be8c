"""Counts of lengths tell what the lengths themselves would."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.datasets.lengths import LengthCounts

lengths = st.lists(st.integers(1, 70), min_size=1, max_size=40)


@given(st.lists(lengths, min_size=1, max_size=4))
def test_the_counts_of_parts_together_are_those_of_the_whole(parts: list[list[int]]) -> None:
    whole = LengthCounts.of(np.array([length for part in parts for length in part]))
    total = LengthCounts.sum_of(LengthCounts.of(np.array(part)) for part in parts)
    assert total.lengths.tolist() == whole.lengths.tolist() == sorted({n for part in parts for n in part})
    assert total.counts.tolist() == whole.counts.tolist()
    assert (total.documents, total.tokens) == (sum(map(len, parts)), sum(map(sum, parts)))


@given(lengths, st.floats(0, 1))
def test_a_quantile_is_the_least_length_that_so_many_do_not_exceed(found: list[int], share: float) -> None:
    quantile = LengthCounts.of(np.array(found)).quantile(share)
    assert quantile in found
    assert sum(length <= quantile for length in found) >= share * len(found)
    assert sum(length < quantile for length in found) < max(1, share * len(found))


@given(lengths)
def test_octaves_hold_every_document_once(found: list[int]) -> None:
    octaves = LengthCounts.of(np.array(found)).octaves()
    assert list(octaves) == list(range(min(octaves), max(octaves) + 1))
    for power, (documents, tokens) in octaves.items():
        here = [length for length in found if 2**power <= length < 2 ** (power + 1)]
        assert (documents, tokens) == (len(here), sum(here))
    assert sum(documents for documents, _ in octaves.values()) == len(found)
