"""What a WARC record holds of HTTP: status, headers, and a body that may be chunked and compressed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

Headers = Mapping[str, str]
"""Names in lower case; of a repeated one the first."""

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})\b")
_END = re.compile(rb"\r?\n\r?\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class BrokenPayload(Exception):
    """A body is not what its headers say."""


class PayloadTooLarge(Exception):
    """A body is larger decompressed than is wanted."""


@dataclass(frozen=True)
class Response:
    """An HTTP response, its body as it came."""

    status: int
    headers: Headers
    body: bytes

    def body_decoded(self, at_most: int) -> bytes:
        """The body without transfer and content codings. Raises BrokenPayload and PayloadTooLarge.

        Many crawlers decode a body and leave the headers: one that is not as they say is taken as it is.
        """
        body = self.body
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = _unchunked(body)
        codings = self.headers.get("content-encoding", "").lower().replace(" ", "").split(",")
        for coding in reversed(codings):
            body = _decoded(body, coding, at_most)
        if len(body) > at_most:
            raise PayloadTooLarge
        return body


def parse_headers(block: bytes) -> Headers:
    """The headers of a block of lines, a line that begins with a space going on with the one before."""
    headers: dict[str, str] = {}
    if b"\n " in block or b"\n\t" in block:
        block = _FOLD.sub(b" ", block)
    for line in block.decode("utf-8", "replace").split("\n"):
        key, colon, value = line.partition(":")
        if colon:
            headers.setdefault(key.strip().lower(), value.strip())
    return headers


def parse_response(content: bytes) -> Response | None:
    """The response that a record holds; None where it is none."""
    status = _STATUS.match(content)
    if status is None:
        return None
    end = _END.search(content)
    head, body = (content, b"") if end is None else (content[: end.start()], content[end.end() :])
    return Response(int(status[1]), parse_headers(head.partition(b"\n")[2]), body)


def _unchunked(body: bytes) -> bytes:
    """The chunks put together; the body itself where it does not begin with one."""
    parts, at = list[bytes](), 0
    while (head := _CHUNK.match(body, at)) is not None:
        size = int(head[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[head.end() : head.end() + size])
        at = head.end() + size
        at += 2 if body[at : at + 2] == b"\r\n" else 1
    # The last chunk is missing where a crawler stopped at its limit.
    return b"".join(parts) if parts else body


def _decoded(body: bytes, coding: str, at_most: int) -> bytes:
    try:
        match coding:
            case "gzip" | "x-gzip" if body.startswith(_GZIP):
                return _inflated(body, 31, at_most)
            case "deflate":
                return _deflated(body, at_most)
            case "br":
                return _by_arrow(body, "brotli", at_most)
            case "zstd" if body.startswith(_ZSTD):
                return _by_arrow(body, "zstd", at_most)
            case _:
                return body
    except (zlib.error, OSError) as error:
        if body.lstrip().startswith(b"<"):
            return body
        raise BrokenPayload(f"not {coding}: {error}") from None


def _inflated(body: bytes, window_bits: int, at_most: int) -> bytes:
    return zlib.decompressobj(window_bits).decompress(body, at_most + 1)


def _deflated(body: bytes, at_most: int) -> bytes:
    """By zlib's format, as the standard says, or without its header, as some servers send it."""
    for window_bits in (15, -15):
        try:
            return _inflated(body, window_bits, at_most)
        except zlib.error:
            continue
    return body


def _by_arrow(body: bytes, codec: str, at_most: int) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
        return bytes(stream.read(at_most + 1))
