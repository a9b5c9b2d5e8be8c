"""Parts of documents, paragraphs or substrings, that repeat a part of an earlier document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from data_tools.duplicates.choosing import REMOVED
from data_tools.duplicates.columns import Batch, Schema, Stored, join, open_batches, take, write_batches
from data_tools.duplicates.corpus import REPEATS, Corpus
from data_tools.duplicates.keyed import KeyedTables, KeyRange, find_repeated, key_ranges, without

# Sorted by (row, at) within a batch; the key is compared where the part is cut out.
REPEATED: Final[Schema] = {"row": np.int64, "at": np.uint32, "key": np.uint64}
_BYTES_AN_ENTRY: Final = 160  # Peak of find_repeated, measured.

_REMOVED_AT_ONCE: Final = 1 << 16

RepeatKind = Literal["paragraphs", "substrings"]


@dataclass(frozen=True)
class Repeat:
    """The search for repeated parts in one range of keys, among the documents that are not removed."""

    corpus: Corpus
    kind: RepeatKind
    removed: tuple[Path, ...]
    keys: KeyRange
    entries_at_once: int
    out: Path


def plan_repeats(
    corpus: Corpus, kind: RepeatKind, removed: tuple[Path, ...], memory_bytes: int, folder: Path
) -> list[Repeat]:
    """The searches that together find all repeats, each within about so much memory."""
    at_once = max(memory_bytes // _BYTES_AN_ENTRY, 1)
    entries = sum(len(table) for path in _paths(corpus, kind) for table in open_batches(path, REPEATS))
    return [
        Repeat(corpus, kind, removed, keys, at_once, folder / f"{kind}-{number:05d}.arrow")
        for number, keys in enumerate(key_ranges(entries, max(at_once * 9 // 10, 1)))
    ]


def find_repeats(task: Repeat) -> int:
    """Write which parts repeat an earlier one, and give how many these are.

    Earlier is: of an earlier source, then of a document with a lesser id, then further up in it.
    """
    tables = KeyedTables(_paths(task.corpus, task.kind), task.corpus.first_rows, REPEATS)
    removed = [table for path in task.removed for table in open_batches(path, REMOVED)]
    repeated = 0

    def batches() -> Iterator[Batch]:
        nonlocal repeated
        for _, group in tables.groups(task.keys, task.entries_at_once):
            rest: list[Batch] = []
            for entries in group:
                batch = join([*rest, _still_there(entries, removed)], tables.schema)
                batch = {**batch, "source": task.corpus.source_of(batch["row"])}
                later = find_repeated(batch, ["key"], ["source", "high", "row", "at"]).later
                repeated += len(later)
                if len(later):
                    yield take(batch, later[np.lexsort([batch["at"][later], batch["row"][later]])])
                rest = [without(batch, later)]

    write_batches(task.out, REPEATED, batches())
    return repeated


def _still_there(batch: Batch, removed: list[Stored]) -> Batch:
    """The entries of documents that are not removed."""
    order = np.argsort(batch["row"])
    rows = batch["row"][order]
    gone = np.zeros(len(rows), bool)
    for table in removed:
        for begin in range(0, len(table), _REMOVED_AT_ONCE):
            some = table.column("row", begin, begin + _REMOVED_AT_ONCE)
            first, last = np.searchsorted(rows, [some[0], some[-1] + 1])
            gone[first:last] |= np.isin(rows[first:last], some, assume_unique=False)
    return without(batch, order[gone])


def _paths(corpus: Corpus, kind: RepeatKind) -> list[Path]:
    return [path for part in corpus.parts if (path := getattr(part, kind)) is not None]
