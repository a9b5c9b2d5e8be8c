"""The shards of a finished dataset: its splits, and a shard's columns without a copy."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import ShardInfo, splits_in
from megatrain.data.shard import Tokens
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, require

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
"""[documents, 2]: the two halves of the doc_ids, big end first."""

_TOKENS: dict[str, np.dtype[Any]] = {
    "large_list<item: uint16>": np.dtype(np.uint16),
    "large_list<item: uint32>": np.dtype(np.uint32),
}
_OTHERS = ["fixed_size_binary[16]", "dictionary<values=string"]
_FIRST = "train validation test"  # splits in this order, others after them
_BYTES_A_PROCESS = 1 << 28  # below this a second process starts more slowly than the first one reads


class Sized(Protocol):
    """A file with a known size."""

    @property
    def bytes(self) -> int: ...


@dataclass(frozen=True)
class ShardColumns:
    """One shard, mapped. Document `row` is `tokens[offsets[row] : offsets[row + 1]]`, EOS included."""

    path: Path
    metadata: dict[bytes, bytes]
    offsets: Ints
    tokens: Tokens
    values_offset: int
    """Where the run of tokens begins in the file."""
    keys: Keys
    sources: tuple[str, ...]
    """The names that occur."""

    @property
    def lengths(self) -> Ints:
        """Tokens of each document [documents]."""
        return np.diff(self.offsets)

    def document(self, row: int) -> Tokens:
        """The tokens of a document, EOS included."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def doc_id(self, row: int) -> bytes:
        """Its 16 bytes."""
        content: bytes = self.keys[row].astype(">u8").tobytes()
        return content


def read_columns(path: Path) -> ShardColumns:
    """Map a shard. Raises FailedWork, naming the file, where it is not one as `write_shard` leaves them."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            if reader.num_record_batches != 1:
                raise FailedWork(f"{path}: {reader.num_record_batches} record batches, where a shard has one")
            start = file.read_buffer().address if file.seek(0) == 0 else 0
            return _columns(path, reader.get_batch(0), dict(reader.schema.metadata or {}), start)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise FailedWork(f"{path}: not a whole shard ({error}); prepare the dataset again") from None


def require_size(path: Path, info: ShardInfo) -> None:
    """Raise FailedWork unless the shard is as large as its manifest says."""
    size = path.stat().st_size
    if size != info.bytes:
        raise FailedWork(
            f"{path}: shard cut short or changed: {size:,} bytes, the manifest says {info.bytes:,}; "
            "prepare the dataset again or restore this file"
        )


def require_unchanged(path: Path, info: ShardInfo) -> None:
    """Raise FailedWork unless the shard has the bytes that its manifest says."""
    require_size(path, info)
    if (found := hash_file(path)) != info.hash:
        raise FailedWork(
            f"{path}: shard damaged: its hash is {found[:12]}, the manifest says {info.hash[:12]}; "
            "prepare the dataset again or restore this file"
        )


def _columns(path: Path, batch: Any, metadata: dict[bytes, bytes], start: int) -> ShardColumns:
    lists, ids, sources = (batch.column(name) for name in ("tokens", "doc_id", "source"))
    kinds = [str(column.type).split(",")[0] for column in (lists, ids, sources)]
    if kinds[0] not in _TOKENS or kinds[1:] != _OTHERS or not batch.num_rows:
        raise FailedWork(f"{path}: {batch.num_rows} rows of {', '.join(kinds)}: not those of a shard")
    values = lists.values.buffers()[1]
    # Not to_numpy(): it imports pandas where that is installed.
    return ShardColumns(
        path=path,
        metadata=metadata,
        offsets=np.frombuffer(lists.buffers()[1], np.int64, batch.num_rows + 1),
        tokens=np.frombuffer(values, _TOKENS[kinds[0]], len(lists.values)),
        values_offset=values.address - start,
        keys=np.frombuffer(ids.buffers()[1], ">u8", 2 * batch.num_rows).astype(np.uint64).reshape(-1, 2),
        sources=tuple(sources.dictionary.take(sources.indices.unique()).to_pylist()),
    )


def open_splits(folder: Path) -> dict[str, TokenDataset]:
    """The splits in a dataset's folder, or the one that the folder is, opened.

    Raises UserError where there is none, or where a shard is missing or cut short.
    """
    return {name: TokenDataset.open(path) for name, path in split_folders(folder).items()}


def split_folders(folder: Path) -> dict[str, Path]:
    """Where the splits of a dataset lie. Raises UserError where there is none."""
    found = splits_in(Path(folder))
    require(found, f"{folder}: no prepared dataset there; make one with `megatrain prepare`")
    named = {os.path.basename(os.path.abspath(path)): path for path in found}
    return dict(
        sorted(named.items(), key=lambda item: (item[0] not in _FIRST, _FIRST.find(item[0]), item[0]))
    )


def processes_for(files: Iterable[Sized], workers: int = 0) -> int:
    """How many processes to read the files with: `workers`, or as many as there is work for."""
    wanted = sum(file.bytes for file in files) // _BYTES_A_PROCESS + 1
    return workers or min(len(os.sched_getaffinity(0)), wanted)
