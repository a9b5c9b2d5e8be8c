"""Where checkpoints lie: a folder of a file system, or object storage through fsspec; both behind one
interface.

A place holds folders, one a checkpoint; a name is "step-00001000/MANIFEST.json", never a path that leaves it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from megatrain.durable import CHUNK_BYTES, replacing, sync_folder, write_uncached
from megatrain.errors import FailedWork, UserError, require
from megatrain.records import read_file
from megatrain.remote import RemoteFolder, is_remote
from megatrain.state import RunFolder


class OpenFile(Protocol):
    """A file that is read at any position."""

    @property
    def size(self) -> int: ...

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with what stands at `start`; raises OSError where the file ends before."""

    def close(self) -> None: ...


class Place(Protocol):
    """All methods raise OSError: FileNotFoundError where a file (or the bucket) is absent, PermissionError
    where access is denied."""

    def folders(self) -> list[str]:
        """Names of what lies directly in it; none where it does not exist."""

    def files(self, folder: str) -> list[str]: ...

    def exists(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes: ...

    def open(self, name: str) -> OpenFile: ...

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        """Put a file in place whole or not at all; when it returns, the file outlives a crash."""

    def remove(self, name: str) -> None:
        """Of a file that may be absent, or of a folder in its place."""

    def remove_folder(self, folder: str) -> None:
        """With all that is in it; it may be absent. Of a link, the link alone goes."""


def open_place(where: str | Path, staging: str | None = None) -> Place:
    """The place that a path or URL names. Raises UserError where its protocol's package is not installed."""
    text = str(where)
    if is_remote(text):
        return RemotePlace(text, staging)
    return LocalPlace(Path(text.removeprefix("file://")))


def place_of_run(folder: RunFolder, configured: str | None, staging: str | None = None) -> Place:
    """Where a run's checkpoints lie: where checkpoint.folder says, else in the run's folder."""
    return open_place(configured or folder.checkpoints, staging)


class LocalPlace:
    """A folder of a file system; durable means fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        return []

    def files(self, folder: str) -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(entry.name for entry in os.scandir(self.root / folder) if entry.is_file())
        return []

    def exists(self, name: str) -> bool:
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        return read_file(self.root / name)

    def open(self, name: str) -> OpenFile:
        return _LocalFile(self.root / name)

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        path = self.root / name
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent.parent)
        with replacing(path) as file:
            for chunk in chunks:
                write_uncached(file, chunk)

    def remove(self, name: str) -> None:
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        path = self.root / folder
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


class _LocalFile:
    _descriptor = -1

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer
        self._path = path
        status = os.fstat(self._descriptor)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "is not a regular file", str(path))

    def read_into(self, start: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            count = os.preadv(self._descriptor, [out[done:]], start + done)
            if count == 0:
                raise OSError(f"{self._path} ends at byte {start + done}")
            done += count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = close


class RemotePlace(RemoteFolder):
    """Object storage. A file is written to local disk first, then put by one upload, which is repeated with
    growing waits when it fails: an object appears whole or not at all.
    """

    def __init__(self, url: str, staging: str | None = None) -> None:
        super().__init__(url)
        self.staging = staging

    def folders(self) -> list[str]:
        return list(self._entries("", "directory"))

    def files(self, folder: str) -> list[str]:
        return list(self._entries(folder, "file"))

    def open(self, name: str) -> OpenFile:
        return _RemoteFile(self, name, self.size(name))

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        # It has no name on the disk, so that a killed process leaves nothing there.
        with tempfile.TemporaryFile(dir=self.staging) as file:
            try:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
            except OSError as error:
                where = self.staging or tempfile.gettempdir()
                raise OSError(error.errno, f"{error.strerror or error} (staging in {where})") from error
            self._persist(lambda: self._upload(file.fileno(), name), name)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._persist(lambda: self._fs.rm_file(self._at(name)), name)

    def remove_folder(self, folder: str) -> None:
        self._persist(lambda: self._clear(folder), folder)

    def _upload(self, descriptor: int, name: str) -> None:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        os.lseek(descriptor, 0, os.SEEK_SET)  # some systems share the position with who opens /dev/fd
        self._fs.put_file(f"/dev/fd/{descriptor}", self._at(name))
        stored = self._fs.info(self._at(name))["size"]
        if stored != size:
            raise OSError(f"{stored} of {size} bytes arrived")

    def _clear(self, folder: str) -> None:
        path = self._at(folder)
        with suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)
        # A bulk request that is refused for some objects is no error to s3fs.
        left = self._fs.find(path)
        if left:
            raise OSError(f"{len(left)} objects could not be removed")


class _RemoteFile:
    def __init__(self, place: RemotePlace, name: str, size: int) -> None:
        self._place, self._name, self.size = place, name, size

    def read_into(self, start: int, out: memoryview) -> None:
        if start + len(out) > self.size:
            raise OSError(f"{self._place}/{self._name} ends at byte {self.size}")
        for first in range(0, len(out), CHUNK_BYTES):
            last = min(first + CHUNK_BYTES, len(out))
            got = self._place.range(self._name, start + first, start + last)
            if len(got) != last - first:
                raise OSError(f"{self._place}/{self._name} ends at byte {start + first + len(got)}")
            out[first:last] = got

    def close(self) -> None:
        pass


def blocks(file: OpenFile) -> Iterator[memoryview]:
    """A file's content from its beginning, a piece at a time; each piece is overwritten by the next."""
    room = memoryview(bytearray(min(CHUNK_BYTES, max(1, file.size))))
    for start in range(0, file.size, len(room)):
        piece = room[: min(len(room), file.size - start)]
        file.read_into(start, piece)
        yield piece


def require_reachable(place: Place) -> None:
    """Raises UserError for what only the user can mend (access denied, no such bucket), FailedWork where the
    place does not answer."""
    staging = place.staging if isinstance(place, RemotePlace) else None
    require(
        staging is None or os.access(staging, os.W_OK | os.X_OK),
        f"checkpoint.staging ({staging}): no folder that can be written; make it, or leave it out",
    )
    try:
        place.folders()
    except FileNotFoundError as error:
        raise UserError(
            f"checkpoint.folder ({place}): {error.strerror or error}; make it, or name another"
        ) from None
    except PermissionError as error:
        raise UserError(
            f"checkpoint.folder ({place}) is refused: {error.strerror or error}; see to URL and credentials"
        ) from None
    except OSError as error:
        raise FailedWork(
            f"checkpoint.folder ({place}) cannot be reached: {error.strerror or error}"
        ) from None
