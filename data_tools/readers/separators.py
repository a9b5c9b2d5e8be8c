"""What stands between documents of a text: a separator whose line ends are those of the file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from data_tools.readers.raw import CHUNK_BYTES, Stream
from data_tools.readers.records import Piece, pieces

_LINE_END = rb"\r?\n"


class Separator:
    """A `document_separator`. A line end in it is LF or CRLF in the file; the beginning and the end of the
    file count as line ends."""

    def __init__(self, text: str) -> None:
        lines = text.replace("\r\n", "\n").encode().split(b"\n")
        self.plain = lines[0] if len(lines) == 1 else None
        """The bytes themselves, where there is no line end in it."""
        self._lines = lines
        self._pattern = re.compile(_LINE_END.join(map(re.escape, lines)))
        self.seen = False
        """Whether it occurred in what was split."""
        self.longest = sum(map(len, lines)) + 2 * (len(lines) - 1)

    @property
    def at_start(self) -> re.Pattern[bytes] | None:
        """What it is at the beginning of a file, which is the end of no line."""
        return None if self._lines[0] or not any(self._lines) else self._without(slice(1, None), b"")

    @property
    def at_end(self) -> re.Pattern[bytes] | None:
        """What it is at the end of a file without a last line end."""
        return None if self._lines[-1] or not any(self._lines) else self._without(slice(None, -1), rb"\Z")

    def split(self, stream: Stream, at_most: int) -> Iterator[Piece]:
        """What stands between the separators of a stream, in order; no more than `at_most` bytes and a chunk
        are in memory."""
        if self.plain is not None:
            for number, piece in enumerate(pieces(stream, self.plain, at_most)):
                self.seen = number > 0
                yield piece
        else:
            yield from self._split_lines(stream, at_most)

    def _split_lines(self, stream: Stream, at_most: int) -> Iterator[Piece]:
        position = self._skip_first(stream)
        held, length, carry = list[bytes](), 0, b""
        while chunk := stream.read1(CHUNK_BYTES):
            window, at = carry + chunk, 0
            for match in self._pattern.finditer(window):
                self.seen = True
                content = window[at : match.start()]
                length += len(content)
                yield Piece(position, b"".join((*held, content)) if length <= at_most else None)
                position += length + len(match[0])
                held, length, at = [], 0, match.end()
            # The beginning of a separator may stand at the end of what was read.
            end = max(len(window) - self.longest + 1, at)
            length += end - at
            held = [*held, window[at:end]] if length <= at_most else []
            carry = window[end:]
        if self.at_end is not None and (last := self.at_end.search(carry)):
            carry, self.seen = carry[: last.start()], True
        length += len(carry)
        yield Piece(position, b"".join((*held, carry)) if length <= at_most else None)

    def _skip_first(self, stream: Stream) -> int:
        """Pass a separator at the very beginning; gives where the first document begins."""
        start = stream.peek(self.longest + len(codecs.BOM_UTF8))
        mark = len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0
        found = self.at_start.match(start, mark) if self.at_start is not None else None
        if found is None:
            return 0
        self.seen = True
        return len(stream.read(found.end()))

    def _without(self, lines: slice, end: bytes) -> re.Pattern[bytes]:
        return re.compile(_LINE_END.join(map(re.escape, self._lines[lines])) + end)
