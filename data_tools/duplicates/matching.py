"""Pairs of documents that share a key: the edges between duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, write_batches
from data_tools.duplicates.corpus import BANDS, EXACT, Corpus
from data_tools.duplicates.hashing import Ints
from data_tools.duplicates.keyed import (
    KeyedTables,
    KeyRange,
    find_repeated,
    key_ranges,
)

# Rows of two duplicates, left < right; sorted by right within a batch.
EDGES: Final[Schema] = {"left": np.int64, "right": np.int64}
_SCHEMAS: Final = {"exact": EXACT, "bands": BANDS}


@dataclass(frozen=True)
class Match:
    """The search in one range of keys, for copies ("exact") or near duplicates ("bands")."""

    corpus: Corpus
    kind: Literal["exact", "bands"]
    keys: KeyRange
    memory_bytes: int
    out: Path


def plan_matches(
    corpus: Corpus, kind: Literal["exact", "bands"], memory_bytes: int, folder: Path
) -> list[Match]:
    """The searches that together find all edges, each within about so much memory."""
    entries = len(KeyedTables(corpus.tables(kind), _SCHEMAS[kind]))
    return [
        Match(corpus, kind, keys, memory_bytes, folder / f"{kind}-{number:05d}.arrow")
        for number, keys in enumerate(key_ranges(entries, memory_bytes))
    ]


def match(task: Match) -> int:
    """Write the edges of one range of keys, and give how many entries repeat an earlier one.

    Every document of a group is tied to the group's first row: a chain is not needed to make a cluster.
    """
    schema = _SCHEMAS[task.kind]
    tables = KeyedTables(task.corpus.tables(task.kind), schema)
    same = [name for name in schema if name != "row"]
    repeated = 0

    def batches() -> Iterator[Batch]:
        nonlocal repeated
        for found in find_repeated(tables.groups(task.keys, task.memory_bytes), same, ["row"]):
            repeated += len(found.later)
            row = found.entries["row"]
            yield sorted_edges(row[found.earliest], row[found.later])

    write_batches(task.out, EDGES, batches())
    return repeated


def sorted_edges(left: Ints, right: Ints) -> Batch:
    """Distinct edges, sorted by their right end."""
    order = np.lexsort([left, right])
    left, right = left[order], right[order]
    new = np.ones(len(left), bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return {"left": left[new], "right": right[new]}
