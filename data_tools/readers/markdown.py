"""Markdown: a document a file, with the front matter apart from the text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

from data_tools.readers.raw import Stream
from data_tools.readers.records import (
    Record,
    decode,
    document,
    metadata_value,
    read_at_most,
    too_large,
    without_mark,
)
from data_tools.readers.source import Source
from data_tools.readers.streams import is_utf8, marked_encoding, transcoded
from data_tools.readers.text import look_up

_LONGEST = 1 << 16  # Characters of front matter; longer ones are text.
_FRONT = re.compile(r"(---|\+\+\+)[ \t]*\r?\n(.{0,65536}?)(?:(?<=\n)|\A)\1[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_BLANK_LINES = re.compile(r"(?:[ \t]*\r?\n)+")


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node. Raises YAMLError at an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def read_markdown(stream: Stream, source: Source, name: str) -> Iterator[Record]:
    """The one document of a file: what follows the front matter, as it is."""
    encoding = source.encoding or marked_encoding(stream) or "utf-8"
    other = not is_utf8(encoding)
    content = read_at_most(transcoded(stream, encoding) if other else stream, source.max_document_bytes)
    if content is None:
        yield Record(0, too_large(source))
        return
    decoded = decode(without_mark(content, 0))
    front, text = front_matter(decoded.text)
    values = {target: look_up(front, key) for target, key in source.metadata.items()}
    metadata = {target: metadata_value(value) for target, value in values.items() if value is not None}
    invalid = decoded.invalid or (other and "\ufffd" in decoded.text)
    yield Record(0, document(decoded._replace(text=text, invalid=invalid), name, source, metadata))


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The values between `---` (YAML) or `+++` (TOML) at the very beginning, and the text behind them.

    Lines between two rules that are no mapping are text, and stay.
    """
    found = _FRONT.match(text)
    if found is None or found.end() > _LONGEST:
        return {}, text
    try:
        values = tomllib.loads(found[2]) if found[1] == "+++" else yaml.load(found[2], _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):  # TOMLDecodeError is a ValueError, as are odd dates.
        return {}, text
    if values is None and not found[2].strip():
        values = {}
    if not isinstance(values, dict):
        return {}, text
    rest = text[found.end() :]
    blank = _BLANK_LINES.match(rest)
    return values, rest[blank.end() :] if blank else rest
