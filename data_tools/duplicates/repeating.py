"""Parts of documents, paragraphs or substrings, that repeat a part of an earlier document."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from data_tools.duplicates.choosing import REMOVED
from data_tools.duplicates.columns import Batch, Schema, Stored, open_batches, take, write_batches
from data_tools.duplicates.corpus import REPEATS, Corpus
from data_tools.duplicates.keyed import (
    KeyedTables,
    KeyRange,
    find_repeated,
    key_ranges,
    without,
)

# Sorted by (row, at) within a batch; the key is compared where the part is cut out.
REPEATED: Final[Schema] = {"row": np.int64, "at": np.uint32, "key": np.uint64}

_REMOVED_AT_ONCE: Final = 1 << 16

RepeatKind = Literal["paragraphs", "substrings"]


@dataclass(frozen=True)
class Repeat:
    """The search for repeated parts in one range of keys, among the documents that are not removed."""

    corpus: Corpus
    kind: RepeatKind
    removed: tuple[Path, ...]
    keys: KeyRange
    memory_bytes: int
    out: Path


def plan_repeats(
    corpus: Corpus, kind: RepeatKind, removed: tuple[Path, ...], memory_bytes: int, folder: Path
) -> list[Repeat]:
    """The searches that together find all repeats, each within about so much memory."""
    entries = len(KeyedTables(corpus.tables(kind), REPEATS))
    return [
        Repeat(corpus, kind, removed, keys, memory_bytes, folder / f"{kind}-{number:05d}.arrow")
        for number, keys in enumerate(key_ranges(entries, memory_bytes))
    ]


def find_repeats(task: Repeat) -> int:
    """Write which parts repeat an earlier one, and give how many these are.

    Earlier is: of an earlier source, then of a document with a lesser id, then further up in it.
    """
    tables = KeyedTables(task.corpus.tables(task.kind), REPEATS)
    removed = [table for path in task.removed for table in open_batches(path, REMOVED)]
    order = ["source", "high", "row", "at"]
    repeated = 0

    def prepare(batch: Batch) -> Batch:
        batch = _still_there(batch, removed)
        return {**batch, "source": task.corpus.source_of(batch["row"])}

    def batches() -> Iterator[Batch]:
        nonlocal repeated
        for found in find_repeated(tables.groups(task.keys, task.memory_bytes), ["key"], order, prepare):
            repeated += len(found.later)
            later = take(found.entries, found.later)
            yield take(later, np.lexsort([later["at"], later["row"]]))

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
            gone[first:last] |= np.isin(rows[first:last], some)
    return without(batch, order[gone])
