"""What one task reads: a file, or a run of bytes of one that can be cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import xxhash

from data_tools.readers.raw import CHUNK_BYTES, open_raw
from data_tools.readers.source import Source, require_kind
from data_tools.readers.streams import is_utf8


@dataclass(frozen=True)
class InputPart:
    """The records of a file that begin within `bytes` bytes from `start`; of parquet the row groups."""

    url: str
    bytes: int
    modified: str
    """The time of the last change of a local file, in nanoseconds; of a remote one the ETag, or its time."""
    start: int = 0
    by_content: bool = False
    """Found in a folder, and its name is not one of the source's format: its first bytes decide."""
    whole_bytes: int = 0
    """Of the file that it is a part of; 0: it is the whole."""

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self.whole_bytes or self.bytes

    @property
    def stop(self) -> int:
        """Where the next part begins."""
        return self.start + self.bytes

    def content_hash(self) -> str:
        """The xxh3-128 of its bytes as they lie there, hex."""
        digest, left = xxhash.xxh3_128(), self.bytes
        with open_raw(self.url) as stream:
            stream.seek(self.start)
            while left and (content := stream.read(min(left, CHUNK_BYTES))):
                digest.update(content)
                left -= len(content)
        return digest.hexdigest()


def split(part: InputPart, source: Source, name: str, at_most_bytes: int) -> list[InputPart]:
    """The part cut into parts of equal size, whose records in their order are those of the whole.

    Only parquet and uncompressed jsonl in UTF-8 can be cut; the others come back as they are.
    """
    kind = require_kind(part.url, source, name)
    lines = kind.format == "jsonl" and kind.compression == "none" and is_utf8(source.encoding or "utf-8")
    count = -(-part.bytes // at_most_bytes) if lines or kind.format == "parquet" else 1
    if count <= 1:
        return [part]
    ends = [part.start + part.bytes * number // count for number in range(count + 1)]
    return [
        replace(part, start=start, bytes=stop - start, whole_bytes=part.bytes)
        for start, stop in itertools.pairwise(ends)
    ]
