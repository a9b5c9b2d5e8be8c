"""Tables sorted by key, read a range of keys at a time, so that what lies in memory is bounded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, Stored, join, open_batches
from data_tools.duplicates.hashing import Ints

_KEYS = 1 << 64


@dataclass(frozen=True)
class KeyRange:
    """The keys from `begin` up to, not including, `end`."""

    begin: int
    end: int


def key_ranges(entries: int, entries_at_once: int) -> list[KeyRange]:
    """Equal ranges of all keys, of about `entries_at_once` entries each."""
    count = max(-(-entries // entries_at_once), 1)
    bounds = [number * _KEYS // count for number in range(count + 1)]
    return [KeyRange(begin, end) for begin, end in pairwise(bounds)]


class KeyedTables:
    """The key tables of a corpus's parts, as one; rows are those of the corpus."""

    def __init__(self, paths: Sequence[Path], first_rows: Ints, schema: Schema) -> None:
        # With rows of the corpus, not of a part.
        self.schema: Schema = {**schema, "row": np.int64}
        self._tables: list[tuple[Stored, int]] = []
        for path, first_row in zip(paths, first_rows.tolist(), strict=False):
            self._tables += [(batch, first_row) for batch in open_batches(path, schema)]

    def groups(self, keys: KeyRange, entries_at_once: int) -> Iterator[tuple[KeyRange, Iterator[Batch]]]:
        """The entries of a range, all of a key in one group, each group in batches of at most
        `entries_at_once`; one batch but where a single key has more than that."""
        waiting = [keys]
        while waiting:
            here = waiting.pop()
            bounds = self._bounds(here)
            count = int((bounds[:, 1] - bounds[:, 0]).sum())
            if count > entries_at_once and here.end - here.begin > 1:
                middle = (here.begin + here.end) // 2
                waiting += [KeyRange(middle, here.end), KeyRange(here.begin, middle)]
            elif count:
                yield here, self._batches(bounds, entries_at_once)

    def _bounds(self, keys: KeyRange) -> Ints:
        """Where the range begins and ends in each table [tables, 2]."""
        bounds = np.empty((len(self._tables), 2), np.int64)
        for number, (table, _) in enumerate(self._tables):
            bounds[number, 0] = table.find("key", keys.begin)[0] if keys.begin else 0
            bounds[number, 1] = table.find("key", keys.end)[0] if keys.end < _KEYS else len(table)
        return bounds

    def _batches(self, bounds: Ints, entries_at_once: int) -> Iterator[Batch]:
        waiting: list[Batch] = []
        size = 0
        for (table, first_row), (begin, end) in zip(self._tables, bounds.tolist(), strict=True):
            while begin < end:
                count = min(end - begin, entries_at_once - size)
                part = table.read(begin, begin + count)
                waiting.append({**part, "row": part["row"].astype(np.int64) + first_row})
                begin, size = begin + count, size + count
                if size == entries_at_once:
                    yield join(waiting, self.schema)
                    waiting, size = [], 0
        if waiting:
            yield join(waiting, self.schema)


@dataclass(frozen=True)
class Repeated:
    """Entries of a batch that repeat an earlier one, and the earliest of each [n]."""

    earliest: Ints
    later: Ints


def find_repeated(batch: Batch, same: Sequence[str], order: Sequence[str]) -> Repeated:
    """Entries alike in the columns `same`, of which the first is "key"; the earliest is by the columns
    `order`."""
    by_key = np.argsort(batch["key"])
    key = batch["key"][by_key]
    as_before = np.concatenate([[False], key[1:] == key[:-1], [False]])
    # Most keys are single: only the others are sorted by all columns.
    entries = by_key[as_before[1:] | as_before[:-1]]
    entries = entries[np.lexsort([batch[name][entries] for name in reversed([*same, *order])])]
    alike = np.ones(max(len(entries) - 1, 0), bool)
    for name in same:
        column = batch[name][entries]
        alike &= column[1:] == column[:-1]
    later = np.flatnonzero(alike) + 1
    first = np.flatnonzero(np.concatenate([[True], ~alike]))[: len(entries)]
    earliest = first[np.searchsorted(first, later, side="right") - 1] if len(later) else later
    return Repeated(entries[earliest], entries[later])


def without(batch: Batch, rows: Ints) -> Batch:
    """A batch without some of its rows."""
    kept = np.ones(len(batch["key"]), bool)
    kept[rows] = False
    return {name: column[kept] for name, column in batch.items()}
