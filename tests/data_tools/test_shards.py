"""Shards are ranges of the shuffle: they cover it once, keep to their limit, and are alike in size."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.shards import plan_ranges
from data_tools.tokenize import INDEX


def _indices(folder: Path, lengths: list[int], files: int, seed: int) -> list[Path]:
    """Documents of these lengths at random places of the shuffle, divided over some tasks."""
    orders = np.random.default_rng(seed).integers(0, 2**64, len(lengths), dtype=np.uint64)
    paths = []
    for number in range(files):
        rows = np.zeros(len(lengths[number::files]), INDEX)
        rows["tokens"], rows["order"] = lengths[number::files], orders[number::files]
        rows.sort(order="order")
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], rows)
    return paths


@given(
    st.lists(st.integers(1, 300), max_size=200), st.integers(1, 1000), st.integers(1, 4), st.integers(0, 99)
)
def test_every_document_falls_into_one_range_that_keeps_to_the_limit(
    lengths: list[int], limit: int, files: int, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = _indices(Path(name), lengths, files, seed)
        ranges = plan_ranges(paths, limit)
        rows = np.concatenate([np.load(path) for path in paths])
    assert ranges == _joined(ranges) and bool(ranges) == bool(lengths)
    total = 0
    for low, high in ranges:
        inside = [
            int(tokens)
            for tokens, order in zip(rows["tokens"], rows["order"].tolist(), strict=True)
            if low <= order < high
        ]
        assert inside and (sum(inside) <= limit or len(inside) == 1)
        total += len(inside)
    assert total == len(lengths)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same ranges, if they join without a gap from the first place to the last."""
    if not ranges:
        return []
    edges = [0, *(high for _, high in ranges)]
    assert edges[-1] == 1 << 64
    return list(pairwise(edges))


def test_sizes_are_balanced(tmp_path: Path) -> None:
    """A limit that the total exceeds by little makes two halves, not a full shard and a crumb."""
    paths = _indices(tmp_path, [10] * 5000, 3, 1)
    rows = np.concatenate([np.load(path) for path in paths])
    for limit, count in ((49_000, 2), (10_000, 6), (7_000, 8), (50_000, 1)):
        ranges = plan_ranges(paths, limit)
        sizes = [
            int(
                rows["tokens"][
                    (rows["order"] >= np.uint64(low)) & (rows["order"] <= np.uint64(high - 1))
                ].sum()
            )
            for low, high in ranges
        ]
        assert sum(sizes) == 50_000 and max(sizes) <= limit
        assert len(sizes) <= count and max(sizes) - min(sizes) <= 0.02 * max(sizes), sizes
