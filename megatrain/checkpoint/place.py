"""Where checkpoints lie: a folder of a file system, or object storage through fsspec; both behind one
interface.

A place holds folders, one a checkpoint; a name is "step-00001000/MANIFEST.json", never a path that leaves it.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from megatrain.durable import CHUNK_BYTES, replacing, sync_folder, write_uncached
from megatrain.errors import FailedWork, UserError
from megatrain.state import RunFolder

TRIES = 5
FIRST_WAIT_S = 0.5
T = TypeVar("T")
logger = logging.getLogger(__name__)


class OpenFile(Protocol):
    """A file that is read at any position."""

    @property
    def size(self) -> int: ...

    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with what stands at `start`; raises OSError where the file ends before."""

    def close(self) -> None: ...


class Place(Protocol):
    """All methods raise OSError; FileNotFoundError where a file is absent."""

    def folders(self) -> list[str]:
        """Names of what lies directly in it; none where it does not exist."""

    def files(self, folder: str) -> list[str]: ...

    def exists(self, name: str) -> bool: ...

    def read(self, name: str) -> bytes: ...

    def open(self, name: str) -> OpenFile: ...

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        """Put a file in place whole or not at all; when it returns, the file outlives a crash."""

    def remove(self, name: str) -> None:
        """Of a file that may be absent."""

    def remove_folder(self, folder: str) -> None: ...


def open_place(where: str | Path, staging: str | None = None) -> Place:
    """The place that a path or URL names. Raises UserError where its protocol's package is not installed."""
    text = str(where)
    if "://" in text and not text.startswith("file://"):
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
        return (self.root / name).read_bytes()

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
        (self.root / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self.root / folder)


class _LocalFile:
    _descriptor = -1

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._path = path
        self.size = os.fstat(self._descriptor).st_size

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


class RemotePlace:
    """Object storage. A file is written to local disk first, then put by one upload, which is repeated with
    growing waits when it fails: an object appears whole or not at all."""

    def __init__(self, url: str, staging: str | None = None) -> None:
        try:
            import fsspec

            # Listings are not cached: another rank, or another run, may have written in between.
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{url}: {error}; install what reads it: pip install 'megatrain[remote]' for s3:// and gs://"
            ) from None
        self._url = url.rstrip("/")
        self._staging = staging

    def __str__(self) -> str:
        return self._url

    def folders(self) -> list[str]:
        return self._names("", "directory")

    def files(self, folder: str) -> list[str]:
        return self._names(f"/{folder}", "file")

    def exists(self, name: str) -> bool:
        return bool(self._persist(lambda: self._fs.exists(self._at(name)), name))

    def read(self, name: str) -> bytes:
        return bytes(self._persist(lambda: self._fs.cat_file(self._at(name)), name))

    def open(self, name: str) -> OpenFile:
        return _RemoteFile(self, name, int(self._persist(lambda: self._fs.size(self._at(name)), name)))

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file."""
        return bytes(self._persist(lambda: self._fs.cat_file(self._at(name), start=start, end=stop), name))

    def write(self, name: str, chunks: Iterable[memoryview]) -> None:
        descriptor, local = tempfile.mkstemp(prefix="megatrain-upload-", dir=self._staging)
        try:
            size = 0
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    size += file.write(chunk)
            self._persist(lambda: self._upload(local, name, size), name)
        finally:
            os.unlink(local)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._persist(lambda: self._fs.rm_file(self._at(name)), name)

    def remove_folder(self, folder: str) -> None:
        with suppress(FileNotFoundError):
            self._persist(lambda: self._fs.rm(self._at(folder), recursive=True), folder)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _names(self, below: str, kind: str) -> list[str]:
        try:
            found = self._persist(lambda: self._fs.ls(self._root + below, detail=True, refresh=True), below)
        except FileNotFoundError:
            return []
        return sorted(str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one["type"] == kind)

    def _upload(self, local: str, name: str, size: int) -> None:
        self._fs.put_file(local, self._at(name))
        stored = self._fs.info(self._at(name), refresh=True)["size"]
        if stored != size:
            raise OSError(f"{stored} of {size} bytes arrived")

    def _persist(self, work: Callable[[], T], name: str) -> T:
        """Try again with growing waits: networks and object stores fail for a while. Raises OSError."""
        wait_s = FIRST_WAIT_S
        for turn in range(1, TRIES + 1):
            try:
                return work()
            except (FileNotFoundError, PermissionError):
                raise
            except Exception as error:  # each store's package raises its own kinds
                if turn == TRIES:
                    raise OSError(f"{self._url}/{name}: {error} (tried {TRIES} times)") from error
                logger.warning("%s/%s: %s; again in %.1f s", self._url, name, error, wait_s)
            time.sleep(wait_s)
            wait_s *= 2
        raise AssertionError


class _RemoteFile:
    def __init__(self, place: RemotePlace, name: str, size: int) -> None:
        self._place, self._name, self.size = place, name, size

    def read_into(self, start: int, out: memoryview) -> None:
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
    """Raises FailedWork, or UserError where access is denied, unless the place can be listed."""
    try:
        place.folders()
    except PermissionError as error:
        raise UserError(f"checkpoint.folder ({place}): access denied: {error}") from None
    except OSError as error:
        raise FailedWork(f"checkpoint.folder ({place}) cannot be reached: {error}") from None
