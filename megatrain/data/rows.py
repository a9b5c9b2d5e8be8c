"""Rows of tokens on their way from shards to a batch: what goes into them, and the memory they are read
into."""

# Shapes: R rows, W tokens of a row (sequence length + 1), P pieces.

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatrain.data.files import File

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens [P] that rows are made of: `length` tokens of shard number `shard`, from its token
    `start` on, go to place `at` of row `row`."""

    row: Ints
    at: Ints
    shard: Ints
    start: Ints
    length: Ints


@dataclass(frozen=True)
class Reads:
    """Pieces as bytes [P]: those at `offset` of a file go to bytes [first, last) of a row; `file` is a
    number in a list of files."""

    row: Ints
    file: Ints
    offset: Ints
    first: Ints
    last: Ints

    def __getitem__(self, chosen: Ints | slice) -> Reads:
        return Reads(*(column[chosen] for column in self._columns))

    def __iter__(self) -> Iterator[tuple[int, int, int, int, int]]:
        return zip(*(column.tolist() for column in self._columns), strict=True)

    @property
    def _columns(self) -> tuple[Ints, ...]:
        return (self.row, self.file, self.offset, self.first, self.last)

    @staticmethod
    def joined(parts: Sequence[Reads]) -> Reads:
        """One after the other."""
        nothing = np.empty(0, np.int64)
        columns = zip((nothing,) * 5, *(part._columns for part in parts), strict=True)
        return Reads(*(np.concatenate(column) for column in columns))


def advise(reads: Reads, files: Sequence[File]) -> None:
    """Say that these pieces will soon be read."""
    for _, number, offset, first, last in reads:
        files[number].advise(offset, last - first)


class Rows:
    """Memory for rows, used again for each batch: `tokens` [R, W] as the shards store them."""

    def __init__(self, count: int, width: int, dtype: np.dtype[Any], padding: int) -> None:
        self.tokens = np.empty((count, width), dtype)
        self._padding = padding
        self._row_bytes = size = width * dtype.itemsize
        whole = self.tokens.data.cast("B") if count else memoryview(b"")
        self._views = [whole[row * size : (row + 1) * size] for row in range(count)]

    def fill(self, reads: Reads, files: Sequence[File]) -> None:
        """Read pieces into the rows; what none of them fills is padding.

        Raises FailedWork naming the file that has become shorter than it was or cannot be read.
        """
        self.tokens.fill(self._padding)
        views, whole, preadv = self._views, self._row_bytes, os.preadv
        for row, number, offset, first, last in reads:
            file = files[number]
            stream, out = file.stream, views[row] if last - first == whole else views[row][first:last]
            try:  # as File.read_into begins, without the call: there are many pieces
                done = 0 if stream is None else preadv(stream.fileno(), [out], offset)
            except OSError:
                done = 0
            if done != len(out):
                file.read_into(offset, out)
