"""CSV and TSV: the rows of a table of text under a header, a row at a time."""

from __future__ import annotations

import csv
import difflib
import sys
from collections.abc import Iterator, Mapping

from data_tools.document import Document, Drop
from data_tools.readers.raw import Stream
from data_tools.readers.records import (
    Decoded,
    Piece,
    Record,
    document,
    metadata_value,
    pieces,
    too_large,
    without_mark,
    without_surrogates,
)
from data_tools.readers.source import Source
from data_tools.readers.streams import is_utf8, marked_encoding, transcoded
from megatrain.errors import UserError

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_OTHERS = {";": "';'", "\t": '"\\t"', "|": "'|'", ",": "','"}
_SHOWN_COLUMNS = 10


class _TooLarge(Exception):
    """A record that is longer than a source allows."""


class _Lines:
    """The lines of a table for csv.reader, which joins those that a quoted field spans.

    Raises _TooLarge when the lines of one record exceed `at_most` bytes; the next call then skips the rest of
    that record, which ends where its quotes are balanced.
    """

    def __init__(self, lines: Iterator[Piece], at_most: int, quote: bytes) -> None:
        self._lines, self._at_most, self._quote = lines, at_most, quote
        self._bytes = self._quotes = 0
        self._skipping = False
        self.position = 0
        """Where the record begins."""

    def begin(self) -> None:
        """Begin a new record."""
        self._bytes = 0
        if not self._skipping:
            self._quotes = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        for position, content in self._lines:
            if self._skipping:
                self._quotes += (content or b"").count(self._quote) if self._quote else 0
                self._skipping = self._quotes % 2 == 1
                continue
            if not self._bytes:
                self.position = position
            if content is None:
                raise _TooLarge
            self._bytes += len(content) + 1
            self._quotes += content.count(self._quote) if self._quote else 0
            if self._bytes > self._at_most:
                self._skipping = self._quotes % 2 == 1
                raise _TooLarge
            return without_mark(content, position).decode("utf-8", "surrogateescape") + "\n"
        raise StopIteration


def read_delimited(stream: Stream, source: Source, name: str, form: str, url: str) -> Iterator[Record]:
    """Yield the documents of a table's rows. Raises UserError where a column is missing."""
    encoding = source.encoding or marked_encoding(stream) or "utf-8"
    other = not is_utf8(encoding)
    text = transcoded(stream, encoding) if other else stream
    quote = '"' if source.quote is None else source.quote
    lines = _Lines(pieces(text, b"\n", source.max_document_bytes), source.max_document_bytes, quote.encode())
    # The size of a record is held by _Lines, and this limit is one of the whole process.
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(
        lines,
        delimiter=source.delimiter or _DELIMITERS[form],
        quotechar=quote or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        strict=True,
    )
    header: dict[str, int] | None = None
    width = 0
    while True:
        lines.begin()
        try:
            row = next(rows)
        except StopIteration:
            return
        except _TooLarge:
            yield Record(lines.position, too_large(source))
            continue
        except csv.Error as error:
            yield Record(lines.position, Drop("read.broken_csv", str(error)))
            continue
        if not row or (len(row) == 1 and width != 1 and not row[0].strip()):
            continue
        if header is None:
            header, width = _header(row, source, name, url), len(row)
        elif len(row) != width:
            found = f"{len(row):,} fields, and the header has {width:,}"
            yield Record(lines.position, Drop("read.broken_csv", found))
        else:
            yield Record(lines.position, _row(row, header, source, name, was_other=other))


def _header(row: list[str], source: Source, name: str, url: str) -> dict[str, int]:
    """The place of each wanted column. Raises UserError where there is no such, or two."""
    columns = [column.strip() for column in row]
    keys = {"text_column": source.text_column}
    keys |= {f"metadata.{target}": column for target, column in source.metadata.items()}
    for key, column in keys.items():
        if (count := columns.count(column)) == 1:
            continue
        where = f"sources.{name}.{key}: {url} has {'two columns' if count else 'no column'} {column}"
        near = difflib.get_close_matches(column, columns, n=1)
        split = [shown for other, shown in _OTHERS.items() if len(columns) == 1 and other in columns[0]]
        raise UserError(
            where
            + (f"; did you mean {near[0]}?" if near and not count else "")
            + (f"; set sources.{name}.delimiter to {split[0]}?" if split else "")
            + f" (its first line is the header: {', '.join(columns[:_SHOWN_COLUMNS])[:200]})"
        )
    return {column: columns.index(column) for column in keys.values()}


def _row(
    row: list[str], header: Mapping[str, int], source: Source, name: str, *, was_other: bool
) -> Document | Drop:
    text = _text(row[header[source.text_column]], was_other)
    if not text.text.strip():
        return Drop("read.no_text", f"{source.text_column} is empty")
    values = {target: row[header[column]] for target, column in source.metadata.items()}
    return document(
        text, name, source, {key: metadata_value(value) for key, value in values.items() if value}
    )


def _text(field: str, was_other: bool) -> Decoded:
    """A field, with U+FFFD for bytes that are no UTF-8: they were read as halves of pairs."""
    found = without_surrogates(field)
    return Decoded(found.text, found.invalid or (was_other and "\ufffd" in found.text))
