"""Pairs of documents that share a key: the edges between duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, join, write_batches
from data_tools.duplicates.corpus import BANDS, EXACT, Corpus
from data_tools.duplicates.hashing import Ints
from data_tools.duplicates.keyed import KeyedTables, KeyRange, find_repeated, key_ranges, without

# Rows of two duplicates, left < right; sorted by right within a batch.
EDGES: Final[Schema] = {"left": np.int64, "right": np.int64}
_BYTES_AN_ENTRY: Final = 96  # Peak of find_repeated, measured.

Kind = Literal["exact", "bands"]


@dataclass(frozen=True)
class Match:
    """The search in one range of keys, for copies ("exact") or near duplicates ("bands")."""

    corpus: Corpus
    kind: Kind
    keys: KeyRange
    entries_at_once: int
    out: Path


def plan_matches(corpus: Corpus, kind: Kind, bands: int, memory_bytes: int, folder: Path) -> list[Match]:
    """The searches that together find all edges, each within about so much memory.

    `bands` is how many keys a document has: 1 for copies.
    """
    at_once = max(memory_bytes // _BYTES_AN_ENTRY, 1)
    # Hashed keys spread evenly: nine tenths leave room for chance.
    ranges = key_ranges(corpus.documents * bands, max(at_once * 9 // 10, 1))
    return [
        Match(corpus, kind, keys, at_once, folder / f"{kind}-{number:05d}.arrow")
        for number, keys in enumerate(ranges)
    ]


def match(task: Match) -> int:
    """Write the edges of one range of keys, and give how many entries repeat an earlier one.

    Every document of a group is tied to the group's first row: a chain is not needed to make a cluster.
    """
    schema = EXACT if task.kind == "exact" else BANDS
    paths = [path for part in task.corpus.parts if (path := getattr(part, task.kind)) is not None]
    tables = KeyedTables(paths, task.corpus.first_rows, schema)
    repeated = 0

    def batches() -> Iterator[Batch]:
        nonlocal repeated
        same = [name for name in schema if name != "row"]
        for _, group in tables.groups(task.keys, task.entries_at_once):
            rest: list[Batch] = []
            for entries in group:
                batch = join([*rest, entries], tables.schema)
                found = find_repeated(batch, same, ["row"])
                repeated += len(found.later)
                if len(found.later):
                    yield sorted_edges(batch["row"][found.earliest], batch["row"][found.later])
                rest = [without(batch, found.later)]

    write_batches(task.out, EDGES, batches())
    return repeated


def sorted_edges(left: Ints, right: Ints) -> Batch:
    """Distinct edges between distinct rows, sorted by their right end."""
    order = np.lexsort([left, right])
    left, right = left[order], right[order]
    new = np.ones(len(left), bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    moved = new & (left != right)  # A document may have one key twice.
    return {"left": left[moved], "right": right[moved]}
