"""A record on its way to a document: found in a stream in bounded memory, decoded, with its metadata."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any, NamedTuple

from data_tools.document import Document, Drop
from data_tools.readers.raw import CHUNK_BYTES, Stream
from data_tools.readers.source import Source

BROKEN = (
    "read.broken_csv",
    "read.broken_json",
    "read.broken_payload",
    "read.damaged",
    "read.invalid_bytes",
    "read.no_text",
    "read.too_large",
)
"""Why a record never becomes a document through a fault of its own."""
# JSON can spell half of a pair ("\ud800"), which no encoding can write.
_SURROGATES = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One record of a file: the document that it is, or why it is none."""

    position: int
    """Where it is in its file: the number of its row in parquet and arrow; else the byte at which it begins,
    of the decompressed content in UTF-8. It is the same however the file is cut."""
    found: Document | Drop


class Piece(NamedTuple):
    """The bytes between two separators; None in place of too many."""

    position: int
    content: bytes | None


def pieces(stream: Stream, separator: bytes, at_most: int, position: int = 0) -> Iterator[Piece]:
    """What stands between the separators of a stream, in order; the last is what follows the last of them.

    `position` is that of the stream's next byte. No more than `at_most` bytes and a chunk are in memory.
    """
    overlap = len(separator) - 1
    held, length, carry = list[bytes](), 0, b""
    while chunk := stream.read1(CHUNK_BYTES):
        *ended, rest = (carry + chunk).split(separator)
        for content in ended:
            length += len(content)
            yield Piece(position, b"".join((*held, content)) if length <= at_most else None)
            position += length + len(separator)
            held, length = [], 0
        # The beginning of a separator may stand at the chunk's end.
        end = max(len(rest) - overlap, 0)
        carry, length = rest[end:], length + end
        held = [*held, rest[:end]] if length <= at_most else []
    length += len(carry)
    yield Piece(position, b"".join((*held, carry)) if length <= at_most else None)


class Decoded(NamedTuple):
    """A text, and whether it holds U+FFFD in place of bytes that are none."""

    text: str
    invalid: bool


def decode(content: bytes, encoding: str = "utf-8") -> Decoded:
    """The text of some bytes."""
    try:
        return Decoded(content.decode(encoding), False)
    except ValueError:  # UnicodeDecodeError, and what stateful codecs raise
        return Decoded(content.decode(encoding, "replace"), True)


def without_surrogates(text: str) -> Decoded:
    """A text that can be written, with U+FFFD for each half of a pair."""
    mended, count = _SURROGATES.subn("\ufffd", text)
    return Decoded(mended, count > 0)


def read_at_most(stream: Stream, at_most: int) -> bytes | None:
    """The rest of a stream, or None where it is longer; nothing is set aside for what is not there."""
    parts, length = list[bytes](), 0
    while length <= at_most and (content := stream.read1(CHUNK_BYTES)):
        parts.append(content)
        length += len(content)
    return b"".join(parts) if length <= at_most else None


def without_mark(content: bytes, position: int) -> bytes:
    """The bytes without the mark of UTF-8 at the beginning of a file."""
    return content.removeprefix(codecs.BOM_UTF8) if position == 0 else content


def document(
    decoded: Decoded, name: str, source: Source, metadata: Mapping[str, Any] | None = None
) -> Document | Drop:
    """The document of a text, unless its bytes were invalid and such are not wanted."""
    if decoded.invalid and source.invalid_bytes == "skip":
        return Drop("read.invalid_bytes", decoded.text[:200])
    found = Document(decoded.text, name, dict(metadata or {}))
    if decoded.invalid:
        found.counts["read.invalid_bytes"] += 1
    return found


def too_large(source: Source) -> Drop:
    """The drop of a record that is longer than the source allows."""
    return Drop("read.too_large", f"more than {source.max_document_bytes:,} bytes (max_document_bytes)")


def metadata_value(value: Any) -> Any:
    """A value as JSON has it: times by ISO 8601, bytes as text, what is no number as null."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return without_surrogates(value).text
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return decode(value).text
        case date() | time():
            return value.isoformat()
        case Mapping():
            return {str(key): metadata_value(item) for key, item in value.items()}
        case list() | tuple():
            return [metadata_value(item) for item in value]
        case _:
            return str(value)
