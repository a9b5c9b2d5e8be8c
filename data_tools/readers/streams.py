"""From a file's raw bytes to what they stand for: decompressed, in UTF-8; damage is told with its place."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from data_tools.readers.charset import is_wide, unicode_form
from data_tools.readers.raw import CHUNK_BYTES, Stream, reason
from data_tools.readers.source import Compression
from megatrain.errors import UserError, install

_ZSTD_WINDOW_LOG = 31  # --long=31, as in some published corpora; zstd takes 27 unless told
_LOOKED_AT_BYTES = 4096


class Damaged(Exception):
    """A file is not what it should be, from a byte or row on; the message says which, and what was found."""

    def __init__(self, position: int, found: str, unit: Literal["byte", "row"] = "byte") -> None:
        super().__init__(f"{unit} {position:,}: {found}")
        self.position = position


def is_utf8(encoding: str) -> bool:
    """Whether an encoding is UTF-8 by any of its names."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


@contextmanager
def decompressed(raw: Stream, compression: Compression) -> Iterator[Stream]:
    """The bytes that a file was made of; members and frames one after the other are one.

    Reading raises Damaged, and nothing that could be decompressed before is lost.
    """
    if compression == "none":
        yield raw
        return
    file, errors = _decompressor(raw, compression)
    with file, io.BufferedReader(_Decompressed(file, errors), CHUNK_BYTES) as stream:
        yield stream


def _decompressor(raw: Stream, compression: Compression) -> tuple[Any, tuple[type[Exception], ...]]:
    """A file that decompresses, and what it raises of damage."""
    match compression:
        case "gz":
            return gzip.GzipFile(fileobj=raw), (EOFError, gzip.BadGzipFile, zlib.error)
        case "bz2":
            return bz2.BZ2File(raw), (EOFError, OSError, ValueError)
        case "xz":
            return lzma.LZMAFile(raw), (EOFError, lzma.LZMAError)
        case _:
            zstd = zstd_module()
            options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
            return zstd.ZstdFile(raw, options=options), (EOFError, zstd.ZstdError)


def require_decompressor(compression: Compression, url: str) -> None:
    """Raise UserError where the package that reads a compression is missing."""
    if compression == "zst":
        try:
            zstd_module()
        except ImportError:
            raise UserError(f"{url}: reading .zst needs a package: {install('data')}") from None


def zstd_module() -> Any:
    """Python's own `compression.zstd`, or before 3.14 its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class _Decompressed(io.RawIOBase):
    def __init__(self, file: Any, errors: tuple[type[Exception], ...]) -> None:
        self._file, self._errors, self._position = file, errors, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._file.read1(len(buffer))
        except self._errors as error:
            found = f"the compressed data after it is damaged or cut short ({reason(error)})"
            raise Damaged(self._position, found) from None
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def marked_encoding(stream: Stream) -> str | None:
    """Return UTF-16 or UTF-32 where a byte order mark at the stream's place, or where zero bytes show it."""
    found = unicode_form(stream.peek(_LOOKED_AT_BYTES)[:_LOOKED_AT_BYTES])
    return found if found and is_wide(found) else None


def transcoded(stream: Stream, encoding: str) -> Stream:
    """Text of another encoding, in UTF-8, with U+FFFD for what is none."""
    name = codecs.lookup(encoding).name
    if name in ("utf-16", "utf-32"):
        found = marked_encoding(stream) or ""
        # Without a mark, and where the bytes do not show it: as Windows writes it.
        name = found if found.startswith(name) else f"{name}-le"
    return io.BufferedReader(_Transcoded(stream, name), CHUNK_BYTES)


class _Transcoded(io.RawIOBase):
    def __init__(self, stream: Stream, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ended = False
        while not self._ready and not ended:
            content = self._stream.read1(CHUNK_BYTES)
            ended = not content
            self._ready = memoryview(self._decoder.decode(content, ended).encode("utf-8", "replace"))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
