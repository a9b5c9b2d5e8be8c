"""Copies of remote files on a node's own disk: of bounded size, shared by all processes of the node."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from megatrain.errors import FailedWork
from megatrain.remote import RemoteFolder

RANGE_BYTES = 1 << 25  # asked for at a time
FULL_WAIT_S = 0.1
_STRIPES = 64
_LOCKS = ".locks"
_PARTIAL = ".partial"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What a manifest says of a remote file: its size and the xxh3-128 of its bytes."""

    bytes: int
    hash: str


class Cache:
    """A folder of copies. When it is full, the file that was used longest ago makes room.

    A copy appears by a rename when it is whole and its hash is right. Whoever fetches a file holds a lock, so
    that the ranks of a node fetch it once; a lock ends with its process.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self.files = root / "files"
        """Of bounded size."""
        self.datasets = root / "datasets"
        """What stays: the tokenizers."""

    def fetch(self, remote: RemoteFolder, name: str, known: Known, path: Path) -> bool:
        """Bring a file to `path`, which lies in the cache; gives whether it had to be fetched.

        Raises OSError while it cannot be read or written; FailedWork where it is another than it should be,
        or larger than the cache.
        """
        if _is_there(path, known):
            return False
        if known.bytes > self.limit_bytes:
            raise FailedWork(
                f"{self.root}: {name} of {known.bytes:,} bytes is larger than the cache of "
                f"{self.limit_bytes:,} bytes; raise data.cache.gib"
            )
        with self._locked(_stripe(path)):
            if _is_there(path, known):  # another rank was faster
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + _PARTIAL)
            try:
                with partial.open("wb") as file:
                    while not self._reserve(file, known.bytes):
                        time.sleep(FULL_WAIT_S)
                    _download(remote, name, known, file)
                    file.flush()
                    os.fsync(file.fileno())
                with self._locked("room"):  # who counts sees it under one of its names
                    os.replace(partial, path)
            except BaseException as error:
                partial.unlink(missing_ok=True)
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise FailedWork(
                        f"{self.root}: the disk has no room for a copy of {remote}/{name}; "
                        "lower data.cache.gib, or choose another disk"
                    ) from None
                raise
        return True

    def _reserve(self, file: BinaryIO, size: int) -> bool:
        """Make room, and take it: what is being fetched counts in full. False where all is being fetched."""
        with self._locked("room"):
            held = self._held()
            taken = sum(entry.st_size for _, entry in held)
            for path, entry in sorted(held, key=lambda one: (one[0].suffix != _PARTIAL, one[1].st_mtime)):
                if taken + size <= self.limit_bytes:
                    break
                if self._removed(path):
                    taken -= entry.st_size
            if taken + size <= self.limit_bytes:
                file.truncate(size)
                return True
            return False

    def _removed(self, path: Path) -> bool:
        """Remove a copy, or what a killed process left of one; not what another rank is fetching."""
        if path.suffix != _PARTIAL:
            path.unlink(missing_ok=True)
            return True
        with suppress(BlockingIOError), self._locked(_stripe(path.with_suffix("")), fcntl.LOCK_NB):
            path.unlink(missing_ok=True)
            return True
        return False

    def _held(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for folder, _, names in os.walk(self.files):
            for path in (Path(folder, name) for name in names):
                with suppress(FileNotFoundError):
                    found.append((path, path.stat()))
        return found

    @contextmanager
    def _locked(self, name: str, how: int = 0) -> Iterator[None]:
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | how)
            yield
        finally:
            os.close(descriptor)


class CachedFolder:
    """A remote folder whose files are read from copies; those that a manifest knows."""

    forgets = True

    def __init__(self, cache: Cache, remote: RemoteFolder, key: str) -> None:
        """`key` tells its copies from those of other folders."""
        self.cache, self.remote = cache, remote
        self._root = cache.files / key
        self._known: dict[str, Known] = {}
        self._checks: dict[str, Callable[[Path], None]] = {}

    def __str__(self) -> str:
        return str(self.remote)

    def know(self, name: str, bytes_: int, hash_: str, check: Callable[[Path], None] | None = None) -> None:
        """A file that can be opened; `check` looks at its copy whenever that is opened."""
        self._known[name] = Known(bytes_, hash_)
        if check is not None:
            self._checks[name] = check

    def fetch(self, name: str) -> bool:
        """Bring a file near; gives whether it had to be fetched. Raises what Cache.fetch raises."""
        return self.cache.fetch(self.remote, name, self._known[name], self._root / name)

    def read(self, name: str) -> bytes:
        """A small file, whole, without a copy."""
        return self.remote.read(name)

    def open(self, name: str) -> BinaryIO:
        """Open the copy of a file, fetched if need be."""
        while True:
            self.fetch(name)
            with suppress(FileNotFoundError):  # another rank needed the room at this very moment
                stream = (self._root / name).open("rb", buffering=0)
                if name in self._checks:
                    self._checks[name](self._root / name)
                return stream


def _stripe(path: Path) -> str:
    """The name of the lock of a file; a few files share one."""
    return f"{xxhash.xxh3_64_intdigest(str(path).encode()) % _STRIPES:02d}"


def _is_there(path: Path, known: Known) -> bool:
    """Whether a copy is whole; as it is asked for, it stays longer."""
    try:
        if path.stat().st_size != known.bytes:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _download(remote: RemoteFolder, name: str, known: Known, file: BinaryIO) -> None:
    digest = xxhash.xxh3_128()
    for start in range(0, known.bytes, RANGE_BYTES):
        stop = min(start + RANGE_BYTES, known.bytes)
        content = remote.range(name, start, stop)
        if len(content) != stop - start:
            raise FailedWork(
                f"{remote}/{name}: shard cut short or changed: it ends at byte {start + len(content):,}, the "
                f"manifest says {known.bytes:,}; restore it, or prepare the dataset again"
            )
        digest.update(content)
        file.write(content)
    if digest.hexdigest() != known.hash:
        raise OSError(f"arrived with hash {digest.hexdigest()[:12]}, the manifest says {known.hash[:12]}")
