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
from megatrain.errors import FailedWork

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

    def __init__(self, count: int, width: int, dtype: np.dtype[Any], padding: int, vocab_size: int) -> None:
        """`vocab_size`: ids of the tokenizer; `padding` is one of them."""
        self._vocab_size = vocab_size
        self.tokens = np.empty((count, width), dtype)
        self._padding = padding
        self._row_bytes = size = width * dtype.itemsize
        whole = self.tokens.data.cast("B") if count else memoryview(b"")
        self._views = [whole[row * size : (row + 1) * size] for row in range(count)]

    def fill(self, reads: Reads, files: Sequence[File]) -> None:
        """Read pieces into the rows; what none of them fills is padding.

        Raises FailedWork naming the file that has become shorter than it was, cannot be read, or holds an id
        that the tokenizer does not have: a model split over ranks would take it for another one.
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
        if self.tokens.size and int(self.tokens.max()) >= self._vocab_size:
            raise self._foreign_id(reads, files)

    def _foreign_id(self, reads: Reads, files: Sequence[File]) -> FailedWork:
        size = self.tokens.dtype.itemsize
        for row, number, offset, first, last in reads:
            piece = self.tokens[row, first // size : last // size]
            if (wrong := np.flatnonzero(piece >= self._vocab_size)).size:
                file, at = files[number], int(wrong[0])
                place = (offset - file.begins) // size + at
                return foreign_id(file, place, int(piece[at]), self._vocab_size)
        raise AssertionError("the padding is none of the ids")


def foreign_id(shard: object, place: int, found: int, vocab_size: int) -> FailedWork:
    """Return the error for a token that is none of the tokenizer's ids."""
    return FailedWork(
        f"{shard}: shard damaged: token number {place:,} (from 0) is {found:,}, but the tokenizer has the "
        f"ids 0 to {vocab_size - 1:,}; prepare the dataset again or restore this file"
    )
