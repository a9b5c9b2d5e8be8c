"""Whether a file is still the one that was planned: what is read of one that changes is of no one content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_tools.readers.parts import InputPart
from data_tools.readers.raw import Stream, descriptor_of, file_system, is_remote, local_path, persist, reason
from megatrain.durable import hash_file
from megatrain.errors import FailedWork

# What says that the content has changed, as each store names it.
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "updated", "mtime", "created")
_AGAIN = "; run the same command again when nothing writes to it"


class Look(NamedTuple):
    """What tells a local file from another, or from itself after a change, without reading it."""

    bytes: int
    modified: int
    """Nanoseconds."""
    inode: int


def look_at(path: str | Path) -> Look:
    """Raises FailedWork where the file is gone or cannot be looked at."""
    try:
        return _look(os.stat(path))
    except OSError as error:
        raise FailedWork(f"{path}: cannot be looked at: {reason(error)}{_AGAIN}") from None


def version_of(info: Mapping[str, Any]) -> str:
    """What a store says of a remote file's version; "" where it says nothing."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def require_unchanged(part: InputPart, raw: Stream | None = None) -> None:
    """Raise FailedWork unless the file is what it was when the work was planned, and while it was read.

    raw: the stream that it was read from, which holds the file open: another of the same name is noticed.
    """
    if is_remote(part.url):
        _require_same_remote(part)
        return
    now = look_at(local_path(part.url))
    require_same(part.url, (part.file_bytes, part.modified), (now.bytes, str(now.modified)))
    if (
        raw is not None
        and (descriptor := descriptor_of(raw)) is not None
        and _look(os.fstat(descriptor)) != now
    ):
        raise FailedWork(f"{part.url}: was replaced by another file while it was read{_AGAIN}")


def require_same(url: str, before: tuple[int, str], now: tuple[int, str]) -> None:
    """Compare size and version of a file. Raises FailedWork where they differ."""
    if now[0] != before[0]:
        raise FailedWork(
            f"{url}: changed while it was read: it had {before[0]:,} bytes, it has {now[0]:,}{_AGAIN}"
        )
    if now[1] != before[1]:
        raise FailedWork(f"{url}: changed while it was read: it was written to again{_AGAIN}")


def require_same_hashes(hashes: Mapping[str, str]) -> None:
    """Raise FailedWork where a file has another content. `hashes` are by path."""
    for path, said in hashes.items():
        try:
            found = hash_file(Path(path))
        except OSError as error:
            raise FailedWork(f"{path}: cannot be read: {reason(error)}{_AGAIN}") from None
        if found != said:
            raise FailedWork(f"{path}: changed while the work ran: its content is another{_AGAIN}")


def _look(status: os.stat_result) -> Look:
    return Look(status.st_size, status.st_mtime_ns, status.st_ino)


def _require_same_remote(part: InputPart) -> None:
    fs, path = file_system(part.url)
    try:
        info = persist(lambda: fs.info(path))
    except OSError as error:
        raise FailedWork(f"{part.url}: cannot be looked at: {reason(error)}") from None
    size = info.get("size")
    now = part.file_bytes if size is None else int(size), version_of(info)
    require_same(part.url, (part.file_bytes, part.modified), now)
