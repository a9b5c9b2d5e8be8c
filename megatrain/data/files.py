"""Files of a dataset, opened when they are first read, and read with patience: a bounded number is open."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from megatrain.errors import FailedWork
from megatrain.records import read_file

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 8.0
logger = logging.getLogger(__name__)


class Folder(Protocol):
    """Where the files of a dataset lie; its text names it in errors."""

    @property
    def forgets(self) -> bool:
        """Whether files vanish while they are open, and wait for who holds them to give their room back."""

    def read(self, name: str) -> bytes:
        """A small file, whole. Raises OSError."""

    def open(self, name: str) -> BinaryIO:
        """Open a file, unbuffered. Raises OSError; FailedWork where trying again is useless."""


class LocalFolder:
    """A folder of a file system."""

    forgets = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def read(self, name: str) -> bytes:
        return read_file(self._root / name)

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb", buffering=0)


class File:
    """One file, open from its first read on until others need its place. Safe for use by several threads."""

    __slots__ = ("_files", "begins", "name", "stream")

    def __init__(self, files: Files, name: str, begins: int = 0) -> None:
        """`begins`: the byte at which the tokens of a shard begin."""
        self._files, self.name, self.begins = files, name, begins
        self.stream: BinaryIO | None = None
        """Who reads it holds it until it is done: another thread may close the file here meanwhile."""

    def __str__(self) -> str:
        return f"{self._files.folder}/{self.name}"

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes at `offset`.

        Raises FailedWork naming the file where it ends before, is gone, or could not be read for `retry_s`.
        """
        stream = self.stream
        try:
            if stream is not None and os.preadv(stream.fileno(), [out], offset) == len(out):
                return
        except OSError:
            pass
        self._read_patiently(offset, out)

    def _read_patiently(self, offset: int, out: memoryview) -> None:
        where, patience_s = f"{self._files.folder}/{self.name}", self._files.retry_s
        ends, wait_s = time.monotonic() + patience_s, FIRST_WAIT_S
        while True:
            try:
                return self._read_once(offset, out)
            except (FileNotFoundError, PermissionError) as error:
                raise FailedWork(f"{where}: cannot be read: {error.strerror}; restore it") from None
            except OSError as error:
                reason = error.strerror or str(error)
                if time.monotonic() + wait_s > ends:
                    told = f"{where}: cannot be read: {reason} (tried for {patience_s:g} s)"
                    raise FailedWork(told) from None
                logger.warning("%s: %s; again in %.1f s", where, reason, wait_s)
            self._files.close(self)  # after ESTALE only opening it again helps
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def advise(self, offset: int, size: int) -> None:
        """Say that these bytes will soon be read: the system fetches them meanwhile, many at a time."""
        with suppress(OSError):  # who reads them will see
            stream = self.stream or (None if self._files.folder.forgets else self._files.open(self))
            if stream is not None and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), offset, size, os.POSIX_FADV_WILLNEED)

    def _read_once(self, offset: int, out: memoryview) -> None:
        stream, done = self.stream or self._files.open(self), 0
        while done < len(out):
            count = os.preadv(stream.fileno(), [out[done:]], offset + done)
            if count == 0:
                raise FailedWork(
                    f"{self._files.folder}/{self.name}: shard cut short while in use: it ends at byte "
                    f"{offset + done:,}; restore it, or prepare the dataset again"
                )
            done += count


class Files:
    """The files of a folder, of which a bounded number is open."""

    def __init__(self, folder: Folder, *, most_open: int, retry_s: float) -> None:
        """A read that fails is tried again for `retry_s`."""
        self.folder = folder
        self.most_open, self.retry_s = most_open, retry_s
        self._open: dict[File, None] = {}
        self._lock = threading.Lock()

    def open(self, file: File) -> BinaryIO:
        """Open a file in the place of the one that was opened first. Raises what Folder.open raises."""
        stream = self.folder.open(file.name)
        with self._lock:
            if self.folder.forgets:
                for other in [other for other in self._open if _is_removed(other)]:
                    self._let_go(other)
            if file.stream is None:
                file.stream = stream
                self._open[file] = None
            while len(self._open) > self.most_open:
                self._let_go(next(iter(self._open)))
        return stream

    def close(self, file: File) -> None:
        """Close a file; a read after it opens it again."""
        with self._lock:
            self._let_go(file)

    def close_all(self) -> None:
        """Close all files."""
        with self._lock:
            for file in list(self._open):
                self._let_go(file)

    @property
    def open_count(self) -> int:
        """How many are open."""
        return len(self._open)

    def _let_go(self, file: File) -> None:
        # Not closed: a thread that still reads it holds it open.
        file.stream = None
        self._open.pop(file, None)


def _is_removed(file: File) -> bool:
    return file.stream is not None and os.fstat(file.stream.fileno()).st_nlink == 0


def most_open_files(folders: int = 1) -> int:
    """How many files each of so many folders may hold open: a quarter of what the system allows in all."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 4096 if allowed == resource.RLIM_INFINITY else allowed
    return max(1, min(allowed // 4, 4096) // folders)
