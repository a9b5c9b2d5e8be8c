"""Clusters: the connected components of the edges, however these are stored, in any memory."""

import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.duplicates.clustering import LABELS, Cluster, cluster
from data_tools.duplicates.columns import open_batches, write_batches
from data_tools.duplicates.matching import EDGES, sorted_edges


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Hundreds of tiny tables: that they survive a power cut is another test's law."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


Edges = list[tuple[int, int]]


def labels_of(rows: int, tables: list[list[Edges]], rows_at_once: int, edges_at_once: int) -> list[int]:
    """The labels, from tables of batches of edges."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for number, batches in enumerate(tables):
            paths.append(folder / f"edges-{number}")
            columns = [np.array(batch, np.int64).reshape(-1, 2).T for batch in batches]
            write_batches(paths[-1], EDGES, [sorted_edges(left, right) for left, right in columns])
        (folder / "scratch").mkdir()
        cluster(Cluster(rows, tuple(paths), rows_at_once, edges_at_once, folder / "scratch", folder / "out"))
        return [
            label
            for table in open_batches(folder / "out", LABELS)
            for label in table.read(0, rows)["label"].tolist()
        ]


def reference(rows: int, edges: Edges) -> list[int]:
    """Union-find, an edge at a time."""
    parent = list(range(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    for a, b in edges:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(row) for row in range(rows)]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[list[Edges]]]:
    rows = draw(st.integers(1, 60))
    row = st.integers(0, rows - 1)
    edge = st.tuples(row, row).map(lambda pair: (min(pair), max(pair)))
    return rows, draw(st.lists(st.lists(st.lists(edge, max_size=20), max_size=3), max_size=4))


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(1, 70), st.integers(1, 9))
def test_labels_are_those_of_a_simple_union_find(
    graph: tuple[int, list[list[Edges]]], rows_at_once: int, edges_at_once: int
) -> None:
    rows, tables = graph
    edges = [edge for batches in tables for batch in batches for edge in batch]
    assert labels_of(rows, tables, rows_at_once, edges_at_once) == reference(rows, edges)


@pytest.mark.parametrize("rows_at_once", [5000, 640, 100_000])
def test_long_chains_and_stars_in_any_order(rows_at_once: int) -> None:
    rows, random = 20_000, np.random.default_rng(0)
    chain = [(row, row + 1) for row in range(0, 9_999)]
    numbers = random.permutation(np.arange(10_000, 15_000)).tolist()
    tangled = [(min(pair), max(pair)) for pair in pairwise(numbers)]
    star = [(15_000, row) for row in range(15_001, 19_999)]
    edges = [*chain, *tangled, *star]
    random.shuffle(edges)
    found = labels_of(rows, [[edges[:7_000]], [edges[7_000:9_000], edges[9_000:]]], rows_at_once, 1500)
    assert found == [0] * 10_000 + [10_000] * 5_000 + [15_000] * 4_999 + [19_999]
