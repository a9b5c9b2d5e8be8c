"""Megatron's indexed dataset, version 1: PREFIX.bin, the tokens, and PREFIX.idx, where documents lie.

The .idx: a magic, the version (u64), a code for the tokens' type (u8), the number of sequences (u64) and that
of document bounds (u64); then of each sequence its tokens (i32) and its place in the .bin in bytes (i64), and
the document bounds (i64), from 0, in sequences. A document is all sequences between two bounds.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.convert.batches import BATCH_TOKENS, Batch
from data_tools.datasets.shards import read_columns
from megatrain.data.manifest import ShardInfo
from megatrain.durable import replacing
from megatrain.errors import FailedWork, require

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
_CODES = {"uint16": 8, "uint32": 4}  # Megatron knows no uint32; ids above 2^31 there are none.
_CHUNK = 1 << 16


class MegatronInput:
    """One .bin and its .idx."""

    def __init__(self, prefix: Path) -> None:
        """`prefix` may end with .bin or .idx. Raises UserError where they are not sound."""
        bare = prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix
        self._index, self._tokens = (bare.with_name(bare.name + suffix) for suffix in (".idx", ".bin"))
        for path in self.files:
            require(path.is_file(), f"{path}: no such file; name the prefix of a .bin and an .idx")
        with self._index.open("rb") as stream:
            head = stream.read(_HEADER.size)
        require(
            len(head) == _HEADER.size and head.startswith(_MAGIC),
            f"{self._index}: not an index of Megatron's (it begins with {head[:9]!r})",
        )
        _, version, code, self._sequences, self._bounds = _HEADER.unpack(head)
        require(version == 1, f"{self._index}: version {version}; only version 1 can be read")
        require(code in _TYPES, f"{self._index}: type code {code}: its tokens are no integers")
        self._dtype = np.dtype(_TYPES[code])
        wanted = _HEADER.size + 12 * self._sequences + 8 * self._bounds
        size = self._index.stat().st_size
        require(
            size != wanted + self._sequences or not self._sequences,
            f"{self._index}: has a mode for each sequence: multimodal data cannot be imported",
        )
        require(
            size == wanted and self._bounds,
            f"{self._index}: {size:,} bytes, its header tells of {wanted:,}: cut short or damaged",
        )
        self._open()

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return self._index, self._tokens

    def batches(self) -> Iterator[Batch]:
        """All documents, in order. Raises FailedWork where the index does not fit the tokens."""
        for start in range(0, len(self._ends) - 1, _CHUNK):
            ends = self._ends[start : start + _CHUNK + 1]
            first, last = int(ends[0]), int(ends[-1])
            sizes = np.concatenate([[0], np.cumsum(self._sizes[first:last], dtype=np.int64)])
            places = self._places[first:last]
            if (np.diff(ends) < 0).any() or last > self._sequences or (np.diff(sizes) < 0).any():
                raise FailedWork(
                    f"{self._index}: documents from {start:,} on: bounds or sizes that cannot be"
                )
            if len(places) and (places != places[0] + sizes[:-1] * self._dtype.itemsize).any():
                raise FailedWork(f"{self._index}: documents from {start:,} on: not one after the other")
            offset = int(places[0]) if len(places) else 0
            yield from self._read(start, np.diff(sizes[ends - first]), offset)

    def _open(self) -> None:
        def table(dtype: Any, count: int, offset: int) -> Any:
            return np.memmap(self._index, dtype, "r", offset, (count,)) if count else np.empty(0, dtype)

        at = _HEADER.size
        self._sizes = table("<i4", self._sequences, at)
        self._places = table("<i8", self._sequences, at + 4 * self._sequences)
        self._ends = table("<i8", self._bounds, at + 12 * self._sequences)
        size = self._tokens.stat().st_size
        end = int(self._places[-1]) + int(self._sizes[-1]) * self._dtype.itemsize if self._sequences else 0
        require(
            size == end, f"{self._tokens}: {size:,} bytes, its index tells of {end:,}: cut short or damaged"
        )
        require(
            self._ends[0] == 0 and self._ends[-1] == self._sequences,
            f"{self._index}: its documents do not hold all sequences: damaged",
        )

    def _read(self, first: int, lengths: Any, offset: int) -> Iterator[Batch]:
        """Documents whose tokens follow each other from an offset in the .bin, some at a time."""
        ends = np.cumsum(lengths)
        row = 0
        while row < len(lengths):
            before = int(ends[row] - lengths[row])
            stop = max(row + 1, int(np.searchsorted(ends, before + BATCH_TOKENS, side="right")))
            size = int(ends[stop - 1]) - before
            tokens = np.fromfile(
                self._tokens, self._dtype, size, offset=offset + before * self._dtype.itemsize
            )
            if len(tokens) != size:
                raise FailedWork(f"{self._tokens}: cut short while in use")
            yield Batch(self._tokens, first + row, lengths[row:stop], tokens)
            row = stop


def write_megatron(prefix: Path, shards: Sequence[tuple[Path, ShardInfo]], dtype: str) -> None:
    """One .bin and .idx of the documents of all shards, in their order: a sequence each, EOS included."""
    code = _CODES[dtype]
    documents = sum(info.documents for _, info in shards)
    sizes_at = _HEADER.size
    places_at, ends_at = sizes_at + 4 * documents, sizes_at + 12 * documents
    with (
        replacing(prefix.with_name(prefix.name + ".bin")) as tokens,
        replacing(prefix.with_name(prefix.name + ".idx")) as index,
    ):
        index.write(_HEADER.pack(_MAGIC, 1, code, documents, documents + 1))
        index.flush()
        done, place = 0, 0
        for path, _ in shards:
            columns = read_columns(path)
            columns.tokens.astype(_TYPES[code], copy=False).tofile(tokens)
            lengths = columns.lengths
            if lengths.max() > np.iinfo(np.int32).max:
                raise FailedWork(f"{path}: a document of {lengths.max():,} tokens is too long for an .idx")
            parts = (
                (sizes_at + 4 * done, lengths.astype("<i4")),
                (places_at + 8 * done, (place + columns.offsets[:-1] * np.dtype(_TYPES[code]).itemsize)),
                (ends_at + 8 * done, done + np.arange(len(lengths), dtype="<i8")),
            )
            for at, part in parts:
                os.pwrite(index.fileno(), part.tobytes(), at)
            done += len(lengths)
            place += len(columns.tokens) * np.dtype(_TYPES[code]).itemsize
        os.pwrite(index.fileno(), struct.pack("<q", done), ends_at + 8 * done)
