"""Files that are there whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import xxhash

CHUNK_BYTES = 1 << 23
PAGE_BYTES = 1 << 12  # what must begin, and be long, a multiple of this to go past the page cache


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path`, flushed to the disk, when the block ends well, and vanishes
    otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file, and the temporary one helps nobody
        raise
    sync_folder(path.parent)


def write_uncached(file: BinaryIO, data: memoryview) -> None:
    """Append, past the page cache where the file system can, and where the data and the end of the file lie
    on pages; else through it.

    A checkpoint in the page cache takes the room of the data set, and copying it there more processor time
    than hashing it. Nothing may wait in the file's own buffer.
    """
    descriptor = file.fileno()
    while data:
        try:
            _bypass_cache(descriptor, bypass=True)
            count = os.write(descriptor, data)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _bypass_cache(descriptor, bypass=False)
            count = os.write(descriptor, data)
        data = data[count:]


def _bypass_cache(descriptor: int, *, bypass: bool) -> None:
    if hasattr(os, "O_DIRECT"):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        wanted = flags | os.O_DIRECT if bypass else flags & ~os.O_DIRECT
        if wanted != flags:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, wanted)


def write_durably(path: Path, content: bytes) -> None:
    """Put a file in place whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """The xxh3-128 of a file, hex."""
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
