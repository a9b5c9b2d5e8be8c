"""Tables sorted by key, read a range of keys at a time, so that what lies in memory is bounded."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, join, open_batches
from data_tools.duplicates.hashing import Ints

_KEYS: Final = 1 << 64
_BYTES_AN_ENTRY: Final = 200  # Peak of find_repeated and what calls it, measured where all keys are alike.


@dataclass(frozen=True)
class KeyRange:
    """The keys from `begin` up to, not including, `end`."""

    begin: int
    end: int


def key_ranges(entries: int, memory_bytes: int) -> list[KeyRange]:
    """Equal ranges of all keys, of about as many entries each as can be searched in so much memory."""
    # Hashed keys spread evenly: nine tenths leave room for chance.
    most = max(_entries_at_once(memory_bytes) * 9 // 10, 1)
    count = max(-(-entries // most), 1)
    bounds = [number * _KEYS // count for number in range(count + 1)]
    return [KeyRange(begin, end) for begin, end in pairwise(bounds)]


class KeyedTables:
    """The key tables of a corpus's parts, as one; rows are those of the corpus."""

    def __init__(self, tables: Sequence[tuple[Path, int]], schema: Schema) -> None:
        # With rows of the corpus, not of a part.
        self._schema: Schema = {**schema, "row": np.int64}
        self._tables = [(table, row) for path, row in tables for table in open_batches(path, schema)]

    def __len__(self) -> int:
        return sum(len(table) for table, _ in self._tables)

    def groups(self, keys: KeyRange, memory_bytes: int) -> Iterator[Iterator[Batch]]:
        """The entries of a range, all of a key in one group; a group is one batch, but where a single key has
        more entries than can be searched in so much memory."""
        at_once = _entries_at_once(memory_bytes)
        waiting = [keys]
        while waiting:
            here = waiting.pop()
            bounds = self._bounds(here)
            count = int((bounds[:, 1] - bounds[:, 0]).sum())
            if count > at_once and here.end - here.begin > 1:
                middle = (here.begin + here.end) // 2
                waiting += [KeyRange(middle, here.end), KeyRange(here.begin, middle)]
            elif count:
                yield self._batches(bounds, at_once)

    def _bounds(self, keys: KeyRange) -> Ints:
        """Where the range begins and ends in each table [tables, 2]."""
        bounds = [table.find("key", keys.begin, keys.end) for table, _ in self._tables]
        return np.array(bounds, np.int64).reshape(-1, 2)

    def _batches(self, bounds: Ints, at_once: int) -> Iterator[Batch]:
        waiting: list[Batch] = []
        size = 0
        for (table, first_row), (begin, end) in zip(self._tables, bounds.tolist(), strict=True):
            while begin < end:
                count = min(end - begin, at_once - size)
                part = table.read(begin, begin + count)
                waiting.append({**part, "row": part["row"].astype(np.int64) + first_row})
                begin, size = begin + count, size + count
                if size == at_once:
                    yield join(waiting, self._schema)
                    waiting, size = [], 0
        if waiting:
            yield join(waiting, self._schema)


@dataclass(frozen=True)
class Repeated:
    """Some entries, those among them that repeat an earlier one, and the earliest of each [n]."""

    entries: Batch
    earliest: Ints
    later: Ints


def find_repeated(
    groups: Iterator[Iterator[Batch]],
    same: Sequence[str],
    order: Sequence[str],
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
) -> Iterator[Repeated]:
    """Entries that repeat an earlier one: alike in the columns `same`, of which the first is "key", and
    earlier by the columns `order`. Each entry goes through `prepare` first."""
    for group in groups:
        rest: Repeated | None = None
        for batch in map(prepare, group):
            if rest is not None:  # What did not repeat may yet be repeated.
                kept = without(rest.entries, rest.later)
                batch = {name: np.concatenate([kept[name], batch[name]]) for name in batch}
            rest = _find(batch, same, order)
            if len(rest.later):
                yield rest


def _find(batch: Batch, same: Sequence[str], order: Sequence[str]) -> Repeated:
    by_key = np.argsort(batch["key"])
    key = batch["key"][by_key]
    as_next = key[1:] == key[:-1]
    shared = np.zeros(len(key), bool)
    shared[1:] = as_next
    shared[:-1] |= as_next
    # Most keys are single: only the others are sorted by all columns.
    entries = by_key[shared]
    entries = entries[np.lexsort([batch[name][entries] for name in reversed([*same, *order])])]
    alike = np.ones(max(len(entries) - 1, 0), bool)
    for name in same:
        column = batch[name][entries]
        alike &= column[1:] == column[:-1]
    later = np.flatnonzero(alike) + 1
    first = np.flatnonzero(np.concatenate([[True], ~alike]))[: len(entries)]
    earliest = first[np.searchsorted(first, later, side="right") - 1] if len(later) else later
    return Repeated(batch, entries[earliest], entries[later])


def without(batch: Batch, rows: Ints) -> Batch:
    """A batch without some of its rows."""
    kept = np.ones(len(batch["key"]), bool)
    kept[rows] = False
    return {name: column[kept] for name, column in batch.items()}


def _entries_at_once(memory_bytes: int) -> int:
    """How many entries can be searched for repeats in so much memory."""
    return max(memory_bytes // _BYTES_AN_ENTRY, 1)
