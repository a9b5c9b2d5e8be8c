"""Files of a dataset, opened when they are first read, and read with patience: a bounded number is open."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from pathlib import Path
from typing import BinaryIO, Protocol

from megatrain.errors import FailedWork

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
        return (self._root / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb", buffering=0)


class Files:
    """Reads at any place of a folder's files. Safe for use by several threads."""

    def __init__(self, folder: Folder, *, most_open: int, retry_s: float) -> None:
        """A read that fails is tried again for `retry_s`."""
        self.folder = folder
        self.most_open, self.retry_s = most_open, retry_s
        self._open: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes at `offset`.

        Raises FailedWork naming the file where it ends before, is gone, or could not be read for `retry_s`.
        """
        # Held by name until the read is over: the table of open files may let go of it meanwhile.
        file = self._open.get(name)
        if file is not None:
            try:
                if os.preadv(file.fileno(), [out], offset) == len(out):
                    return
            except OSError:
                pass
        self._read_patiently(name, offset, out)

    def close(self) -> None:
        """Close all files; a read after it opens them again."""
        with self._lock:
            self._open.clear()

    def _read_patiently(self, name: str, offset: int, out: memoryview) -> None:
        ends, wait_s = time.monotonic() + self.retry_s, FIRST_WAIT_S
        while True:
            try:
                self._read_anew(name, offset, out)
                return
            except (FileNotFoundError, PermissionError) as error:
                raise FailedWork(
                    f"{self.folder}/{name}: cannot be read: {error.strerror}; restore it"
                ) from None
            except OSError as error:
                reason = error.strerror or str(error)
                if time.monotonic() + wait_s > ends:
                    raise FailedWork(
                        f"{self.folder}/{name}: cannot be read: {reason} (tried for {self.retry_s:g} s)"
                    ) from None
                logger.warning("%s/%s: %s; again in %.1f s", self.folder, name, reason, wait_s)
            with self._lock:
                self._open.pop(name, None)  # after ESTALE only opening it again helps
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _read_anew(self, name: str, offset: int, out: memoryview) -> None:
        file, done = self._get(name), 0
        while done < len(out):
            count = os.preadv(file.fileno(), [out[done:]], offset + done)
            if count == 0:
                raise FailedWork(
                    f"{self.folder}/{name}: shard cut short while in use: it ends at byte {offset + done:,}; "
                    "restore it, or prepare the dataset again"
                )
            done += count

    def _get(self, name: str) -> BinaryIO:
        file = self._open.get(name)
        if file is not None:
            return file
        opened = self.folder.open(name)
        with self._lock:
            if self.folder.forgets:
                held = self._open.items()
                self._open = {name: file for name, file in held if os.fstat(file.fileno()).st_nlink}
            file = self._open.setdefault(name, opened)
            # Who was opened first goes first; a thread that still reads it holds it open.
            while len(self._open) > self.most_open:
                del self._open[next(iter(self._open))]
        if file is not opened:
            opened.close()
        return file


def most_open_files(folders: int = 1) -> int:
    """How many files each of so many folders may hold open: a quarter of what the system allows in all."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 4096 if allowed == resource.RLIM_INFINITY else allowed
    return max(1, min(allowed // 4, 4096) // folders)
