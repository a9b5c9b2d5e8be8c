"""Files of a checkpoint: safetensors written and hashed in one pass, flushed, and renamed into place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash

from megatrain.durable import CHUNK_BYTES, replacing

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


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


def write_safetensors(
    path: Path,
    entries: Sequence[Entry],
    tensors: Iterable[torch.Tensor],
    metadata: dict[str, str] | None = None,
) -> FileInfo:
    """Write the tensors, one at a time, in the order of the entries (which are known beforehand).

    The file appears under its name when it is whole and on the disk.
    """
    header = _header(entries, metadata)
    digest = xxhash.xxh3_128()
    with replacing(path) as file:
        size = _put(file, digest, memoryview(len(header).to_bytes(8, "little"))) + _put(
            file, digest, memoryview(header)
        )
        for entry, tensor in zip(entries, tensors, strict=True):
            assert tensor.dtype == entry.dtype and tuple(tensor.shape) == entry.shape, entry
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            size += _put(file, digest, memoryview(raw.numpy()))  # type: ignore[arg-type]
    return FileInfo(path.name, size, digest.hexdigest())


def _header(entries: Sequence[Entry], metadata: dict[str, str] | None) -> bytes:
    tree: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for entry in entries:
        size = torch.Size(entry.shape).numel() * entry.dtype.itemsize
        tree[entry.key] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    assert len({entry.key for entry in entries}) == len(entries), "a tensor is named twice"
    header = json.dumps(tree, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)  # the data begins aligned


def _put(file: BinaryIO, digest: xxhash.xxh3_128, data: memoryview) -> int:
    for first in range(0, len(data), CHUNK_BYTES):
        digest.update(data[first : first + CHUNK_BYTES])
        file.write(data[first : first + CHUNK_BYTES])
    return len(data)
