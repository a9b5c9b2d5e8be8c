"""Appending lines to a file of a run: complete ones, late rather than never, by the attempt that holds it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from megatrain.errors import FailedWork

MOST_KEPT = 100_000
"""Lines that are kept for later while they cannot be written; what comes then is lost."""
Fence = Callable[[], None]
"""Raises FailedWork where another attempt holds the run, OSError where that cannot be known now."""


def unfenced() -> None:
    """For files that one process alone writes."""


class Appender:
    """Appends lines to a file, each with one write; those that cannot be written now are kept and written
    before the next one.

    A line is complete or absent: what a full disk took of it is taken back, and a line that a kill tore is
    ended at opening.
    """

    def __init__(self, path: Path, fence: Fence = unfenced) -> None:
        """Make the file, and its folder, if need be. Raises OSError, also for what is no regular file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._path, self._fence = path, fence
        self._file = os.open(path, flags, 0o644)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._file)
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        self._torn = status.st_size > 0 and os.pread(self._file, 1, status.st_size - 1) != b"\n"
        self._kept: deque[bytes] = deque()
        self._lost = 0
        self._failure: OSError | None = None
        """Of the first write that failed since all was written."""
        self._complaint: str | None = None

    def append(self, line: bytes) -> None:
        """Append a line, given with its end.

        Raises OSError when it could not be written now, FailedWork when the run is another attempt's.
        """
        if len(self._kept) < MOST_KEPT:
            self._kept.append(line)
        else:
            self._lost += 1
        self._flush()

    def complaint(self) -> str | None:
        """Return what became of lines that could not be written at once, when that is known; once."""
        complaint, self._complaint = self._complaint, None
        return complaint

    def close(self) -> None:
        """Write what is kept, if that is possible now; what is not is lost, and `complaint` says so."""
        if self._file < 0:
            return
        with suppress(OSError, FailedWork):
            self._flush()
        if self._failure is not None:
            lost = self._lost + len(self._kept)
            self._complaint = f"{self._path.name}: {lost:,} lines are lost ({_reason(self._failure)})"
        os.close(self._file)
        self._file = -1

    def _flush(self) -> None:
        late = 0
        try:
            self._fence()
            while self._kept:
                self._write(self._kept[0])
                self._kept.popleft()
                late += 1
        except OSError as error:
            self._failure = self._failure or error
            raise
        if self._failure is not None:
            lost = f", {self._lost:,} are lost" if self._lost else ""
            self._complaint = (
                f"{self._path.name}: {late:,} lines were written late{lost} ({_reason(self._failure)})"
            )
            self._failure, self._lost = None, 0

    def _write(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        done = 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError:
            if done and not self._taken_back(done):
                self._torn = True
            raise
        self._torn = False

    def _taken_back(self, done: int) -> bool:
        """Cut off the beginning of a line, unless somebody has appended to it meanwhile."""
        with suppress(OSError):
            end = os.lseek(self._file, 0, os.SEEK_CUR)  # a write that appends leaves it at its own end
            if os.fstat(self._file).st_size == end:
                os.ftruncate(self._file, end - done)
                return True
        return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
