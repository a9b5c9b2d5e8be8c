"""The bytes of a file as they lie there, on a disk or behind a URL; to fail here is no damage to the file."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from megatrain.errors import FailedWork, UserError, install
from megatrain.remote import behind_absence, is_unconnected

CHUNK_BYTES = 1 << 18
TRIES = 5
FIRST_WAIT_S = 0.5
_BLOCK_BYTES = 8 << 20
_Result = TypeVar("_Result")
Stream: TypeAlias = "io.BufferedReader[Any]"
"""What is read of a file: its bytes, buffered, with a look ahead."""


def is_remote(url: str) -> bool:
    """Whether it is a URL; `file://` counts as a path."""
    return "://" in url and not url.startswith("file://")


def local_path(url: str) -> str:
    """The path that a `file://` URL names, or the path itself."""
    return url.removeprefix("file://")


@contextmanager
def open_raw(url: str) -> Iterator[Stream]:
    """A file's bytes, seekable. Raises FailedWork where they cannot be had, at opening or later."""
    try:
        file = _open(url)
    except (UserError, OSError) as error:
        raise FailedWork(f"{url}: cannot be read: {reason(error)}") from None
    with file, io.BufferedReader(_Raw(file, url), CHUNK_BYTES) as stream:
        yield stream


def _open(url: str) -> BinaryIO:
    if not is_remote(url):
        return open(local_path(url), "rb", buffering=0, opener=_opened)
    fs, path = file_system(url)
    return cast(BinaryIO, persist(lambda: fs.open(path, "rb", block_size=_BLOCK_BYTES)))


def _opened(path: str, flags: int) -> int:
    """Open a regular file; one that became a FIFO since it was found would be waited for without end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is no regular file", path)


class _Raw(io.RawIOBase):
    """Reads on where a remote read failed, and tells any failure as such."""

    def __init__(self, file: BinaryIO, url: str) -> None:
        self._file, self._url = file, url
        self.failure: FailedWork | None = None

    @property
    def descriptor(self) -> int | None:
        return None if is_remote(self._url) else self._file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        at = self._file.tell()
        try:
            if not is_remote(self._url):
                return cast(Any, self._file).readinto(buffer) or 0
            content = persist(lambda: self._file.read(len(buffer)))
        except (OSError, UserError) as error:
            self.failure = FailedWork(f"{self._url}: byte {at:,}: cannot be read: {reason(error)}")
            raise self.failure from None
        buffer[: len(content)] = content
        return len(content)


def failure_of(stream: Stream) -> FailedWork | None:
    """What failed when the stream of `open_raw` was read, for those that hear of it by another's words."""
    return cast(_Raw, stream.raw).failure


def descriptor_of(stream: Stream) -> int | None:
    """The open file that the stream of `open_raw` reads; None for a remote one."""
    return cast(_Raw, stream.raw).descriptor


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path there.

    Raises UserError where the package for it is missing or the protocol unknown.
    """
    import fsspec  # 0.2 s to import, and not needed for local files.

    amazon = url.startswith(("s3://", "s3a://"))
    options: dict[str, Any] = {"use_listings_cache": False}
    if amazon:
        # Three layers repeat what fails, botocore, s3fs and `persist`: one of them is enough.
        asked = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": 1}, **asked}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(f"{url}: {reason(error)}: {install('remote')}") from None
    except ValueError as error:
        raise UserError(f"{url}: {reason(error)}; known are s3://, gs://, https:// and paths") from None
    if amazon:
        fs.retries = 1
    return fs, path


def persist(work: Callable[[], _Result]) -> _Result:
    """Try again with growing waits: networks and object stores fail for a while. Raises OSError."""
    for turn in range(TRIES):
        try:
            return work()
        except PermissionError:
            raise
        except FileNotFoundError as error:
            failure = behind_absence(error)
            if failure is None:
                raise
        except Exception as error:  # each store's package raises its own kinds
            failure = error
        if turn + 1 == TRIES or type(failure).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
            raise OSError(errno.EIO, reason(failure)) from failure
        time.sleep(FIRST_WAIT_S * 2**turn)
    raise AssertionError


def reason(error: Exception) -> str:
    """One line, without what may be secret in a URL."""
    if isinstance(error, FileNotFoundError):
        return "no such file"  # the stores' packages say but its name
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    text = f"cannot connect: {text}" if is_unconnected(error) else text
    return re.sub(r"(://[^\s?\"']*)\?[^\s\"']*", r"\1", re.sub(r"://[^/\s]*@", "://", text))
