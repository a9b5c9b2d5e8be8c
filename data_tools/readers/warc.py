"""WARC and WET: the records of a crawl's archive, and which of them are documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_tools.document import Document, Drop
from data_tools.readers.charset import charset_of, unicode_form
from data_tools.readers.payload import (
    BrokenPayload,
    Headers,
    PayloadTooLarge,
    Response,
    parse_headers,
    parse_response,
)
from data_tools.readers.raw import CHUNK_BYTES, Stream
from data_tools.readers.records import Record, decode, document, metadata_value, too_large
from data_tools.readers.source import Source
from data_tools.readers.streams import Damaged
from data_tools.readers.text import page

_LINE_BYTES = 1 << 16
_HEADER_BYTES = 1 << 20
_DOCUMENTS = ("response", "resource", "conversion")
"""Records of other types (warcinfo, request, metadata, revisit) hold none."""
_NOTES = ("metadata:", "urn:")
"""Where crawlers put their own logs, as resources."""
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass
class _Cursor:
    """A stream and the byte that comes next."""

    stream: Stream
    position: int = 0

    def line(self) -> bytes:
        line = self.stream.readline(_LINE_BYTES)
        self.position += len(line)
        return line

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.position += len(content)
        if len(content) < size:
            raise Damaged(self.position, f"cut short: {size - len(content):,} bytes of a record are missing")
        return content

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.read(min(size, CHUNK_BYTES)))


def read_warc(stream: Stream, source: Source, name: str) -> Iterator[Record]:
    """The documents of an archive: pages as they came (response, resource), and texts (conversion)."""
    cursor = _Cursor(stream)
    while (found := _next_record(cursor)) is not None:
        position, headers, size = found
        if headers.get("warc-type", "").lower() not in _DOCUMENTS or _url(headers).startswith(_NOTES):
            cursor.skip(size)
        elif size > source.max_document_bytes:
            cursor.skip(size)
            yield Record(position, too_large(source))
        else:
            yield Record(position, _found(headers, cursor.read(size), source, name))


def _next_record(cursor: _Cursor) -> tuple[int, Headers, int] | None:
    """Where the next record begins, its headers and the size of what follows them; None at the end."""
    line = b"\r\n"
    while line in (b"\r\n", b"\n"):
        position, line = cursor.position, cursor.line()
    if not line:
        return None
    if not line.startswith(b"WARC/"):
        raise Damaged(position, f"no WARC record begins here, but {line[:20]!r}")
    block = bytearray()
    while (line := cursor.line()) not in (b"\r\n", b"\n"):
        block += line
        if not line or len(block) > _HEADER_BYTES:
            raise Damaged(position, "the headers of a WARC record have no end")
    headers = parse_headers(bytes(block))
    size = headers.get("content-length", "")
    if not (size.isascii() and size.isdigit()):
        raise Damaged(position, f"a WARC record's Content-Length is {size or 'missing'}")
    return position, headers, int(size)


def _found(headers: Headers, content: bytes, source: Source, name: str) -> Document | Drop:
    response = Response(200, headers, content)
    if headers["warc-type"].lower() == "response":
        told = parse_response(content)
        if told is None:
            return Drop("read.broken_payload", "no HTTP response")
        response = told
    if not 200 <= response.status < 300:
        return Drop("read.http_status", str(response.status))
    try:
        body = response.body_decoded(source.max_document_bytes)
    except BrokenPayload as error:
        return Drop("read.broken_payload", str(error))
    except PayloadTooLarge:
        return too_large(source)
    metadata = _metadata(headers, response.headers, source)
    content_type = response.headers.get("content-type", "")
    kind = _media_type(headers.get("warc-identified-payload-type", "")) or _media_type(content_type)
    if kind in _PAGES or (not kind and _looks_like_a_page(body)):
        return page(body, charset_of(body, content_type) or source.encoding, name, metadata)
    if kind == "text/plain":
        charset = unicode_form(body) or charset_of(b"", content_type) or source.encoding or "utf-8"
        return document(decode(body, charset), name, source, metadata)
    return Drop("read.media_type", kind or "none told")


def _looks_like_a_page(body: bytes) -> bool:
    start = body[:400]
    if form := unicode_form(start):
        start = start.decode(form, "ignore").encode()
    return start.lstrip()[:5].lower() in (b"<html", b"<!doc")


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _url(headers: Headers) -> str:
    return headers.get("warc-target-uri", "").strip("<>")  # some put it in brackets, as WARC 1.0 said


def _metadata(warc: Headers, http: Headers, source: Source) -> dict[str, Any]:
    """The page's URL and when it was fetched, and the headers that the source asks for."""
    values: dict[str, str | None] = {
        "url": _url(warc) or None,
        "date": warc.get("warc-date"),
    }
    for target, header in source.metadata.items():
        key = header.lower()
        values[target] = warc.get(key, http.get(key))
    return {target: metadata_value(value) for target, value in values.items() if value is not None}
