"""Connected components of the edges, by external memory: as many documents at once as are given room.

Contraction from the last rows to the first (Sibeyn, "External connected components", 2004): a range of rows
is reduced to its edges to earlier rows, then the earlier ranges follow; labels go the other way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, Stored, open_batches, write_batches
from data_tools.duplicates.corpus import Corpus
from data_tools.duplicates.hashing import Ints
from data_tools.duplicates.matching import EDGES, sorted_edges

# The first row of each row's cluster, row after row.
LABELS: Final[Schema] = {"label": np.int64}
_BYTES_A_ROW: Final = 48  # Peak of _lowest: five arrays of whole numbers.
_BYTES_AN_EDGE: Final = 100  # Peak of _unite.
_EDGES_AT_ONCE: Final = 1 << 20
_NONE: Final = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Cluster:
    """The one task of clustering: the edges' tables, and how many rows and edges lie in memory at once.

    `scratch` is an empty folder of its own that holds up to 8 bytes a document and 16 an edge.
    """

    rows: int
    edges: tuple[Path, ...]
    rows_at_once: int
    edges_at_once: int
    scratch: Path
    out: Path


def plan_clustering(
    corpus: Corpus, edges: tuple[Path, ...], memory_bytes: int, scratch: Path, out: Path
) -> Cluster:
    """The clustering within about so much memory."""
    edges_at_once = max(min(_EDGES_AT_ONCE, memory_bytes // (4 * _BYTES_AN_EDGE)), 1)
    rows_at_once = max((memory_bytes - edges_at_once * _BYTES_AN_EDGE) // _BYTES_A_ROW, 1)
    return Cluster(corpus.documents, edges, rows_at_once, edges_at_once, scratch, out)


def cluster(task: Cluster) -> None:
    """Write the label of every document: the first row of its cluster, its own where it is alone."""
    ranges = [
        range(begin, min(begin + task.rows_at_once, task.rows))
        for begin in range(0, task.rows, task.rows_at_once)
    ]
    edges = [batch for path in task.edges for batch in open_batches(path, EDGES)]
    for number, rows in reversed(list(enumerate(ranges))):
        parents = task.scratch / f"parents-{number}.arrow"
        spilled = task.scratch / f"spilled-{number}.arrow"
        lowest = _lowest(edges, rows, task.edges_at_once)
        write_batches(spilled, EDGES, _spill(edges, rows, lowest, task.edges_at_once))
        write_batches(parents, LABELS, [{"label": lowest}])
        del lowest
        edges += open_batches(spilled, EDGES)
    write_batches(task.out, LABELS, _labels(task.scratch, ranges))


def _lowest(edges: list[Stored], rows: range, at_once: int) -> Ints:
    """For each row of a range [rows]: one earlier row that it is connected to through the range, the same
    for all that the range connects; the first row of these where none is earlier."""
    forest = np.arange(len(rows))
    for left, right in _within(edges, rows, at_once):
        inside = left >= rows.start
        _unite(forest, left[inside] - rows.start, right[inside] - rows.start)
    _flatten(forest)
    earlier = np.full(len(rows), _NONE)
    for left, right in _within(edges, rows, at_once):
        outside = left < rows.start
        np.minimum.at(earlier, forest[right[outside] - rows.start], left[outside])
    found = earlier[forest]
    return np.where(found == _NONE, forest + rows.start, found)


def _spill(edges: list[Stored], rows: range, lowest: Ints, at_once: int) -> Iterator[Batch]:
    """Edges among earlier rows that say what the range connects."""
    for left, right in _within(edges, rows, at_once):
        to = lowest[right - rows.start]
        crossing = (left < rows.start) & (left != to)
        if crossing.any():
            yield sorted_edges(to[crossing], left[crossing])


def _within(edges: list[Stored], rows: range, at_once: int) -> Iterator[tuple[Ints, Ints]]:
    """The edges whose right end is in the range, some at a time."""
    for table in edges:
        begin, end = table.find("right", rows.start, rows.stop)
        for first in range(begin, end, at_once):
            batch = table.read(first, min(first + at_once, end))
            yield batch["left"], batch["right"]


def _labels(scratch: Path, ranges: list[range]) -> Iterator[Batch]:
    for number in range(len(ranges)):
        labels = _stored_labels(scratch / f"parents-{number}.arrow")
        for before, earlier in enumerate(ranges[:number]):
            there = (labels >= earlier.start) & (labels < earlier.stop)
            if there.any():
                of_earlier = _stored_labels(scratch / f"labels-{before}.arrow")
                labels[there] = of_earlier[labels[there] - earlier.start]
        write_batches(scratch / f"labels-{number}.arrow", LABELS, [{"label": labels}])
        yield {"label": labels}


def _stored_labels(path: Path) -> Ints:
    [table] = open_batches(path, LABELS)
    return table.column("label", 0, len(table))


def _unite(forest: Ints, a: Ints, b: Ints) -> None:
    """Join the trees of each pair; a root is the least of its tree."""
    while len(a):
        a, b = _roots(forest, a), _roots(forest, b)
        apart = a != b
        a, b = a[apart], b[apart]
        high, low = np.maximum(a, b), np.minimum(a, b)
        forest[high] = low  # One of them where a root has several; the others come again.
        # Roots now hang on roots in chains: each step halves their length.
        while not np.array_equal(above := forest[forest[high]], forest[high]):
            forest[high] = above


def _roots(forest: Ints, nodes: Ints) -> Ints:
    found = forest[nodes]
    while not np.array_equal(above := forest[found], found):
        found = above
    forest[nodes] = found
    return found


def _flatten(forest: Ints) -> None:
    while not np.array_equal(above := forest[forest], forest):
        forest[:] = above
