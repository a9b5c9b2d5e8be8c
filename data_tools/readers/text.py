"""Plain text, JSON lines and web pages that lie in files of their own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from data_tools.document import Document, Drop
from data_tools.readers.charset import charset_of
from data_tools.readers.raw import Stream
from data_tools.readers.records import (
    Decoded,
    Piece,
    Record,
    decode,
    document,
    metadata_value,
    pieces,
    read_at_most,
    too_large,
    without_mark,
    without_surrogates,
)
from data_tools.readers.separators import Separator
from data_tools.readers.source import Source
from data_tools.readers.streams import is_utf8, marked_encoding, transcoded

_HALF_A_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_SHOWN_COLUMNS = 10
NO_SEPARATOR = "read.no_separator"
"""Counted of a file in which the separator does not occur: it is one document."""


class _Utf8(NamedTuple):
    """A stream in UTF-8, and whether it has been made so from another encoding."""

    stream: Stream
    was_other: bool

    def decode(self, content: bytes) -> Decoded:
        decoded = decode(content)
        return Decoded(decoded.text, decoded.invalid or (self.was_other and "\ufffd" in decoded.text))


def _utf8(stream: Stream, source: Source) -> _Utf8:
    encoding = source.encoding or marked_encoding(stream) or "utf-8"
    return _Utf8(stream, False) if is_utf8(encoding) else _Utf8(transcoded(stream, encoding), True)


def read_text(stream: Stream, source: Source, name: str) -> Iterator[Record]:
    """The documents of a text: one, or as many as separators part."""
    utf8, at_most = _utf8(stream, source), source.max_document_bytes
    if source.document_separator is None:
        yield _text(Piece(0, read_at_most(utf8.stream, at_most)), utf8, source, name)
        return
    separator = Separator(source.document_separator)
    found = separator.split(utf8.stream, at_most)
    first, second = next(found), next(found, None)
    record = _text(first, utf8, source, name)
    if not separator.seen and isinstance(record.found, Document):
        record.found.counts[NO_SEPARATOR] += 1
    yield record
    for piece in () if second is None else itertools.chain([second], found):
        yield _text(piece, utf8, source, name)


def _text(piece: Piece, utf8: _Utf8, source: Source, name: str) -> Record:
    if piece.content is None:
        return Record(piece.position, too_large(source))
    decoded = utf8.decode(without_mark(piece.content, piece.position))
    return Record(piece.position, document(decoded, name, source))


def read_json_lines(
    stream: Stream, source: Source, name: str, start: int, stop: int | None
) -> Iterator[Record]:
    """The documents of the lines that begin at `start` or later and before `stop`; blank lines are none."""
    utf8 = _utf8(stream, source)
    if utf8.was_other:
        if start:
            return  # the mark at its beginning says that it cannot be cut: the first part reads the whole
        stop = None
    # Whether a line begins at `start` is seen from the byte before.
    begin = max(start - 1, 0)
    if begin:
        utf8.stream.seek(begin)
    lines = pieces(utf8.stream, b"\n", source.max_document_bytes, begin)
    if start:
        next(lines)
    for position, line in lines:
        if stop is not None and position >= stop:
            return
        if line is None:
            yield Record(position, too_large(source))
        elif line.strip():
            yield Record(position, _json_line(line, utf8.decode(line), source, name))


def read_html(stream: Stream, source: Source, name: str) -> Iterator[Record]:
    """The one page of a file."""
    content = read_at_most(stream, source.max_document_bytes)
    if content is None:
        yield Record(0, too_large(source))
    else:
        yield Record(0, page(content, charset_of(content) or source.encoding, name, {}))


def page(content: bytes, charset: str | None, name: str, metadata: dict[str, Any]) -> Document | Drop:
    """The document of a web page, whose text is still to be extracted."""
    if not content or content.isspace():
        return Drop("read.no_text", "an empty page")
    return Document("", name, metadata | ({"charset": charset} if charset else {}), content=content)


def _json_line(line: bytes, decoded: Decoded, source: Source, name: str) -> Document | Drop:
    try:
        # A line's own U+FEFF, at the start of some files, is no part of JSON.
        tree: Any = json.loads(decoded.text.lstrip("\ufeff"))
    except json.JSONDecodeError as error:
        return Drop("read.broken_json", f"{error.msg}, at character {error.pos:,} of {len(decoded.text):,}")
    except (ValueError, RecursionError) as error:
        return Drop("read.broken_json", str(error))
    text = look_up(tree, source.text_column)
    if not isinstance(text, str):
        return Drop("read.no_text", _no_text(tree, text, source.text_column))
    if _HALF_A_PAIR.search(line):
        mended = without_surrogates(text)
        decoded = Decoded(mended.text, decoded.invalid or mended.invalid)
    else:
        decoded = Decoded(text, decoded.invalid)
    values = {target: look_up(tree, column) for target, column in source.metadata.items()}
    metadata = {target: metadata_value(value) for target, value in values.items() if value is not None}
    return document(decoded, name, source, metadata)


def look_up(tree: Any, column: str) -> Any:
    """The value of a field; "a.b" is that of the field b of a, unless a field has this very name."""
    if not isinstance(tree, dict):
        return None
    if column in tree:
        return tree[column]
    head, _, rest = column.partition(".")
    return look_up(tree.get(head), rest) if rest else None


def _no_text(tree: Any, text: Any, column: str) -> str:
    if not isinstance(tree, dict):
        return f"the line is a JSON {type(tree).__name__}, not an object"
    if text is None:
        columns = ", ".join(map(str, list(tree)[:_SHOWN_COLUMNS])) or "none"
        return f"no {column}, or null; its columns are {columns}"
    return f"{column} is a {type(text).__name__}, not a text"
