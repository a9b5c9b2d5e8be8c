"""What collecting leaves for the search for duplicates: tables of keys, a set for each part of the corpus."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np

from data_tools.duplicates.columns import Batch, Schema, join, open_batches, write_batches
from data_tools.duplicates.hashing import Ints, UInts
from data_tools.duplicates.near import NO_KEY

# Document ids in the order of documents: the halves of 128 bits.
IDS: Final[Schema] = {"high": np.uint64, "low": np.uint64}
# Sorted by key. `row` is the document's number within its part.
EXACT: Final[Schema] = {"key": np.uint64, "low": np.uint64, "row": np.uint32}
BANDS: Final[Schema] = {"key": np.uint64, "row": np.uint32}
REPEATS: Final[Schema] = {"key": np.uint64, "high": np.uint64, "row": np.uint32, "at": np.uint32}


Kind = Literal["exact", "bands", "paragraphs", "substrings"]


@dataclass(frozen=True)
class Part:
    """The documents of one collecting task, and where their tables lie (None: not looked for)."""

    source: int
    documents: int
    ids: Path
    exact: Path | None = None
    bands: Path | None = None
    paragraphs: Path | None = None
    substrings: Path | None = None


@dataclass(frozen=True)
class Corpus:
    """All parts, in the order of sources; the documents' rows number them through, part after part.

    What is kept of duplicates is of the first source that has it.
    """

    sources: tuple[str, ...]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        order = [part.source for part in self.parts]
        assert order == sorted(order), "the parts of a corpus stand in the order of its sources"

    @cached_property
    def first_rows(self) -> Ints:
        """The row of each part's first document, and behind them the number of documents [parts + 1]."""
        return np.cumsum([0, *(part.documents for part in self.parts)], dtype=np.int64)

    @property
    def documents(self) -> int:
        """How many there are."""
        return int(self.first_rows[-1])

    def source_of(self, rows: Ints) -> Ints:
        """The source of each row [n]."""
        return np.searchsorted(self._source_ends, rows, side="right")

    @cached_property
    def _source_ends(self) -> Ints:
        counts = np.zeros(len(self.sources), np.int64)
        for part in self.parts:
            counts[part.source] += part.documents
        return np.cumsum(counts)

    def tables(self, kind: Kind) -> list[tuple[Path, int]]:
        """The tables of one kind, each with the row of its part's first document."""
        paths = [getattr(part, kind) for part in self.parts]
        rows = self.first_rows.tolist()
        return [(path, row) for path, row in zip(paths, rows, strict=False) if path is not None]

    def ids(self, begin: int, end: int) -> Batch:
        """The ids of a range of rows; `high` and `low` [end - begin]."""
        first, last = np.searchsorted(self.first_rows, [begin, end - 1], side="right") - 1
        tables = []
        for number in range(int(first), int(last) + 1):
            row = int(self.first_rows[number])
            for stored in open_batches(self.parts[number].ids, IDS):  # One batch, or none of an empty part.
                tables.append(stored.read(max(begin - row, 0), end - row))
        return join(tables, IDS)


@dataclass(frozen=True)
class RepeatKeys:
    """Keys of parts of some documents [n]: of which document each is, and where in it."""

    key: UInts
    document: Ints
    at: Ints


def write_ids(path: Path, ids: UInts) -> None:
    """Write the ids [documents, 2] of a part, in order."""
    write_batches(path, IDS, [{"high": ids[:, 0], "low": ids[:, 1]}])


def write_exact_keys(path: Path, ids: UInts) -> None:
    """Write the table that copies are found by, from the ids [documents, 2]."""
    order = np.argsort(ids[:, 0], kind="stable")
    write_batches(path, EXACT, [{"key": ids[order, 0], "low": ids[order, 1], "row": order}])


def write_band_keys(path: Path, keys: UInts) -> None:
    """Write the table that near duplicates are found by, from `Signer.band_keys` [documents, bands]."""
    flat = keys.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], NO_KEY, side="right") :]
    write_batches(path, BANDS, [{"key": flat[order], "row": order // max(keys.shape[1], 1)}])


def write_repeat_keys(path: Path, ids: UInts, batches: Sequence[RepeatKeys]) -> None:
    """Write the table that repeated paragraphs, or substrings, are found by.

    The batches number the documents through the part.
    """
    key, document, at = (
        np.concatenate([np.empty(0, dtype), *(getattr(batch, name) for batch in batches)])
        for name, dtype in (("key", np.uint64), ("document", np.int64), ("at", np.int64))
    )
    order = np.argsort(key, kind="stable")
    document = document[order]
    columns = {"key": key[order], "high": ids[document, 0], "row": document, "at": at[order]}
    write_batches(path, REPEATS, [columns])
