"""Files of a checkpoint: safetensors, written and hashed in one pass, and read at any place of any tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from megatrain.checkpoint.place import OpenFile, Place
from megatrain.durable import CHUNK_BYTES, replacing
from megatrain.records import parse_record

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
MAX_HEADER_BYTES = 1 << 28


@dataclass(frozen=True)
class FileInfo:
    """What is known of a file that was written."""

    name: str
    bytes: int
    xxh3: str
    """xxh3-128 of the whole file, hex."""


@dataclass(frozen=True)
class Entry:
    """The name, dtype and shape of one tensor of a safetensors file."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """First byte, from the beginning of the file."""


def write_safetensors(
    path: Path,
    entries: Sequence[Entry],
    tensors: Iterable[torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the tensors, one at a time, in the order of the entries (which are known beforehand).

    The file appears under its name when it is whole and on the disk.
    """
    with replacing(path) as file:
        for chunk in safetensors_chunks(entries, tensors, metadata):
            file.write(chunk)


def write_hashed(place: Place, name: str, chunks: Iterable[memoryview]) -> FileInfo:
    """Put a file in its place and tell its size and hash."""
    digest, size = xxhash.xxh3_128(), 0

    def hashed() -> Iterator[memoryview]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    place.write(name, hashed())
    return FileInfo(name.rpartition("/")[2], size, digest.hexdigest())


def safetensors_chunks(
    entries: Sequence[Entry], tensors: Iterable[torch.Tensor], metadata: dict[str, str] | None = None
) -> Iterator[memoryview]:
    """The bytes of the file: its header, then each tensor in pieces of at most CHUNK_BYTES."""
    header = safetensors_header(entries, metadata)
    yield memoryview(bytearray(header))
    for entry, tensor in zip(entries, tensors, strict=True):
        assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry
        yield from pieces(raw_bytes(tensor.detach().cpu().contiguous()))


def safetensors_header(entries: Sequence[Entry], metadata: dict[str, str] | None = None) -> bytes:
    """The length of the JSON and the JSON, padded so that the data begin aligned."""
    tree: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for entry in entries:
        tree[entry.key] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.bytes],
        }
        at += entry.bytes
    assert len({entry.key for entry in entries}) == len(entries), "a tensor is named twice"
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_extents(file: OpenFile) -> Mapping[str, Extent]:
    """Where each tensor of a safetensors file lies. Raises ValueError for what is none, OSError."""
    if file.size < 8:
        raise ValueError(f"{file.size} bytes are no safetensors file")
    prefix = bytearray(8)
    file.read_into(0, memoryview(prefix))
    length = int.from_bytes(prefix, "little")
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        raise ValueError(f"its header claims {length} bytes, the file has {file.size}")
    text = bytearray(length)
    file.read_into(8, memoryview(text))
    tree = parse_record(bytes(text))
    return {
        str(key): _extent(str(key), entry, 8 + length, file.size)
        for key, entry in tree.items()
        if key != "__metadata__"
    }


def _extent(key: str, entry: Any, base: int, size: int) -> Extent:
    try:
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        sound = (
            all(type(n) is int and n >= 0 for n in (*shape, first, last))
            and last - first == math.prod(shape) * dtype.itemsize
            and base + last <= size
        )
    except (LookupError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"its header is wrong about {key}")
    return Extent(dtype, shape, base + first)


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def pieces(data: memoryview) -> Iterator[memoryview]:
    """The same bytes, at most CHUNK_BYTES at a time."""
    for first in range(0, len(data), CHUNK_BYTES):
        yield data[first : first + CHUNK_BYTES]
