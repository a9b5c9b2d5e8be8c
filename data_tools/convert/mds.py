"""MosaicML's streaming shards (MDS), version 2: a folder with index.json and shard.00000.mds ...

A shard: the number of samples (u32), the place of each and of the end (u32, in bytes from the beginning), a
JSON of its columns, the samples. A sample: the size (u32) of each column that has no fixed one, then the
columns' bytes, in the order of their names.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.convert.batches import BATCH_TOKENS, Batch
from data_tools.convert.ndarray import decoded, encoded
from data_tools.datasets.shards import ShardColumns, read_columns
from megatrain.data.manifest import ShardInfo
from megatrain.durable import replacing, write_durably
from megatrain.errors import FailedWork, UserError, require

_INDEX = "index.json"
_CODECS = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}
_SIZE_LIMIT = 1 << 26
_MOST_BYTES = 1 << 32
_READ_BYTES = 1 << 20


class MdsInput:
    """A folder of shards."""

    def __init__(self, folder: Path, column: str, bytes_dtype: str | None) -> None:
        """`column` holds the tokens, of `bytes_dtype` where it is plain bytes. Raises UserError."""
        self._folder, self._column = folder, column
        path = folder / _INDEX
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            self._shards = [_Shard(folder, shard, column, bytes_dtype) for shard in tree["shards"]]
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; name a folder of MDS shards") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not an index of MDS shards ({error!r})") from None
        require(self._shards, f"{path}: names no shard")

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return (self._folder / _INDEX, *(shard.path for shard in self._shards))

    def batches(self) -> Iterator[Batch]:
        """All samples, in order. Raises FailedWork naming shard and sample where one cannot be read."""
        for shard in self._shards:
            yield from shard.batches()


class _Shard:
    def __init__(self, folder: Path, tree: dict[str, Any], column: str, bytes_dtype: str | None) -> None:
        require(
            (tree["format"], tree["version"]) == ("mds", 2),
            f"{folder / _INDEX}: a shard of format {tree['format']}, version {tree['version']}; only mds, "
            "version 2, can be read",
        )
        self._names, self._sizes = list(tree["column_names"]), list(tree["column_sizes"])
        encodings = dict(zip(self._names, tree["column_encodings"], strict=True))
        require(
            column in encodings,
            f"{folder / _INDEX}: no column {column!r}; there is {', '.join(self._names)}: say --column",
        )
        self._encoding, self._column, self._bytes_dtype = encodings[column], column, bytes_dtype
        require(
            self._encoding.split(":")[0] == "ndarray" or self._encoding == "bytes",
            f"{folder / _INDEX}: column {column!r} is of type {self._encoding}; tokens are ndarray or bytes",
        )
        require(
            self._encoding != "bytes" or bytes_dtype,
            f"{folder / _INDEX}: column {column!r} is plain bytes; say of which type with --bytes-dtype",
        )
        self._with_ids = encodings.get("doc_id") == "bytes"
        self._with_sources = encodings.get("source") == "str"
        self.path, packed = folder / tree["raw_data"]["basename"], tree["zip_data"]
        self._codec = None
        if packed and not self.path.is_file():
            self.path, self._codec = folder / packed["basename"], str(tree["compression"]).split(":")[0]
        require(self.path.is_file(), f"{self.path}: shard missing")
        require(
            self._codec is None or self._codec in _CODECS,
            f"{self.path}: compressed with {self._codec}; can be read: {', '.join(_CODECS)}",
        )
        self._samples = int(tree["samples"])
        stated = tree["raw_data"] if self._codec is None else packed
        self._hashes = {str(name): str(said) for name, said in dict(stated.get("hashes") or {}).items()}

    def _require_hashes(self) -> None:
        """Raise FailedWork where a hash that the index has of the file, by a known function, differs."""
        for name, said in self._hashes.items():
            digest = getattr(xxhash, name, None) or getattr(hashlib, name, None)
            if digest is None:
                continue
            found = digest()
            with self.path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    found.update(block)
            if found.hexdigest() != said.lower():
                raise FailedWork(f"{self.path}: damaged: its {name} is not the one in {_INDEX}")

    def batches(self) -> Iterator[Batch]:
        self._require_hashes()
        rows: list[dict[str, bytes]] = []
        first = held = 0
        for number, row in enumerate(self._rows()):
            rows.append(row)
            held += len(row[self._column])
            if held >= BATCH_TOKENS:
                yield self._batch(rows, first)
                rows, first, held = [], number + 1, 0
        if rows:
            yield self._batch(rows, first)

    def _rows(self) -> Iterator[dict[str, bytes]]:
        """Each sample's columns as they are stored."""
        import pyarrow as pa

        done = 0
        codec = None if self._codec is None else _CODECS[self._codec]
        try:
            with closing(pa.input_stream(str(self.path), codec, buffer_size=_READ_BYTES)) as stream:
                (count,) = struct.unpack("<I", stream.read(4))
                places = np.frombuffer(stream.read(4 * (count + 1)), "<u4").astype(np.int64)
                if count != self._samples or len(places) != count + 1:
                    raise ValueError(f"{count:,} samples, the index says {self._samples:,}")
                stream.read(int(places[0]) - 4 * (count + 2))
                for size in np.diff(places).tolist():
                    yield self._columns(stream.read(size), size)
                    done += 1
        except (OSError, ValueError, struct.error) as error:
            raise FailedWork(f"{self.path}: sample {done:,}: cannot be read ({error}); damaged") from None

    def _columns(self, sample: bytes, size: int) -> dict[str, bytes]:
        if len(sample) != size or size < 0:
            raise ValueError("cut short")
        open_sizes = [name for name, fixed in zip(self._names, self._sizes, strict=True) if not fixed]
        found = dict(zip(open_sizes, struct.unpack_from(f"<{len(open_sizes)}I", sample), strict=True))
        at, columns = 4 * len(open_sizes), {}
        for name, fixed in zip(self._names, self._sizes, strict=True):
            columns[name] = sample[at : at + (fixed or found[name])]
            at += fixed or found[name]
        if at != size:
            raise ValueError(f"its columns are {at:,} bytes of {size:,}")
        return columns

    def _batch(self, rows: list[dict[str, bytes]], first: int) -> Batch:
        tokens: list[npt.NDArray[Any]] = []
        sources: list[str] = []
        for number, row in enumerate(rows, first):
            try:
                tokens.append(self._tokens(row[self._column]))
                if self._with_sources:
                    sources.append(row["source"].decode())
                if self._with_ids and len(row["doc_id"]) != 16:
                    raise ValueError(f"its doc_id has {len(row['doc_id'])} bytes, not 16")
            except ValueError as error:
                raise FailedWork(f"{self.path}: sample {number:,}: cannot be read ({error})") from None
        return Batch(
            self.path,
            first,
            np.array([len(part) for part in tokens], np.int64),
            np.concatenate(tokens),
            [row["doc_id"] for row in rows] if self._with_ids else None,
            sources if self._with_sources else None,
        )

    def _tokens(self, content: bytes) -> npt.NDArray[Any]:
        if self._encoding == "bytes":
            return np.frombuffer(content, self._bytes_dtype)
        return decoded(content, self._encoding)


def write_mds(folder: Path, shards: Sequence[tuple[Path, ShardInfo]]) -> None:
    """A folder of MDS shards of at most 64 MiB with the columns doc_id, source and tokens; the index last."""
    folder.mkdir()
    dtype = str(read_columns(shards[0][0]).tokens.dtype)
    config = {
        "column_encodings": ["bytes", "str", f"ndarray:{dtype}"],
        "column_names": ["doc_id", "source", "tokens"],
        "column_sizes": [None, None, None],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": _SIZE_LIMIT,
        "version": 2,
    }
    head = json.dumps(config, sort_keys=True).encode()
    written: list[dict[str, Any]] = []
    for samples in _sized(_samples(shards), len(head)):
        name = f"shard.{len(written):05d}.mds"
        places = np.cumsum([4 * (len(samples) + 2) + len(head), *map(len, samples)])
        if places[-1] >= _MOST_BYTES:
            raise FailedWork(f"{folder}: a document of {places[-1]:,} bytes is too long for an MDS shard")
        with replacing(folder / name) as file:
            file.write(struct.pack("<I", len(samples)) + places.astype("<u4").tobytes() + head)
            file.writelines(samples)
        data = {"basename": name, "bytes": int(places[-1]), "hashes": {}}
        written.append({**config, "raw_data": data, "samples": len(samples), "zip_data": None})
    tree = {"shards": written, "version": 2}
    write_durably(folder / _INDEX, json.dumps(tree, sort_keys=True).encode())


def _samples(shards: Sequence[tuple[Path, ShardInfo]]) -> Iterator[bytes]:
    for path, info in shards:
        columns: ShardColumns = read_columns(path)
        source = info.source.encode()
        for row in range(info.documents):
            tokens = encoded(columns.document(row))
            sizes = struct.pack("<3I", 16, len(source), len(tokens))
            yield sizes + columns.doc_id(row) + source + tokens


def _sized(samples: Iterator[bytes], head: int) -> Iterator[list[bytes]]:
    """As many samples together as the limit of a shard's size lets; one at least."""
    held: list[bytes] = []
    size = head + 8
    for sample in samples:
        if held and size + len(sample) + 4 > _SIZE_LIMIT:
            yield held
            held, size = [], head + 8
        held.append(sample)
        size += len(sample) + 4
    if held:
        yield held
