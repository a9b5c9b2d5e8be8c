"""Reading one part of a source, and when what was read is too broken to go on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from data_tools.document import Drop
from data_tools.readers.columns import read_arrow, read_parquet
from data_tools.readers.delimited import read_delimited
from data_tools.readers.markdown import read_markdown
from data_tools.readers.parts import InputPart
from data_tools.readers.raw import open_raw
from data_tools.readers.records import BROKEN, Record
from data_tools.readers.sniff import ARRAY, PRETTY, REASONS, foreign
from data_tools.readers.source import Source, require_kind
from data_tools.readers.streams import Damaged, decompressed
from data_tools.readers.text import read_html, read_json_lines, read_text
from data_tools.readers.unchanged import require_unchanged
from data_tools.readers.warc import read_warc
from megatrain.errors import FailedWork, UserError, require

_LOOKED_AT = 100
_NOT_OF_COLUMN = ("read.no_text", "read.broken_json", "read.broken_csv")


def read_documents(part: InputPart, source: Source, name: str) -> Iterator[Record]:
    """The records of a part, in order, a few of them in memory.

    Raises FailedWork naming file and place where the file cannot be read, is damaged, or changed since it was
    found (which is seen at its end); with
    `on_damage: skip` the damage is one dropped record, and what came before it stays. Raises UserError
    where a table lacks a column.
    """
    try:
        yield from _records(part, source, name)
    except Damaged as damage:
        require_unchanged(part)  # one that is being written to is no damaged one
        if source.on_damage == "fail":
            raise FailedWork(
                f"{part.url}: {damage}; replace the file, or set sources.{name}.on_damage=skip to go on with "
                "what came before"
            ) from None
        yield Record(damage.position, Drop("read.damaged", str(damage)))


def _records(part: InputPart, source: Source, name: str) -> Iterator[Record]:
    kind = require_kind(part.url, source, name)
    with open_raw(part.url) as raw, decompressed(raw, kind.compression) as stream:
        if drop := foreign(stream, kind.format, source, by_content=part.by_content):
            if not part.start:
                yield Record(0, drop)
            return
        match kind.format:
            case "txt":
                yield from read_text(stream, source, name)
            case "jsonl":
                stop = part.stop if kind.compression == "none" else None
                yield from read_json_lines(stream, source, name, part.start, stop)
            case "html":
                yield from read_html(stream, source, name)
            case "csv" | "tsv":
                yield from read_delimited(stream, source, name, kind.format, part.url)
            case "markdown":
                yield from read_markdown(stream, source, name)
            case "warc" | "wet":
                yield from read_warc(stream, source, name)
            case "parquet":
                yield from read_parquet(stream, part, source, name)
            case "arrow":
                yield from read_arrow(stream, source, name, part.url)
        require_unchanged(part, raw)


def require_readable(name: str, source: Source, parts: Sequence[InputPart]) -> None:
    """Look into a source's first file that is not empty. Raises UserError where its columns are not those
    that the config names, or it cannot be read: what would otherwise be told after hours of work."""
    part = next(part for part in parts if part.bytes)
    try:
        first = list(itertools.islice(read_documents(part, source, name), _LOOKED_AT))
    except FailedWork as error:
        raise UserError(str(error)) from None
    drops = [record.found for record in first if isinstance(record.found, Drop)]
    if len(drops) == 1 and drops[0].reason in REASONS:
        what = drops[0].detail
        require(not what.startswith((ARRAY, PRETTY)), f"sources.{name}: {part.url} is {what}")
        require(len(parts) > 1, f"sources.{name}: {part.url}: {what}; name files of text")
    if require_kind(part.url, source, name).format not in ("jsonl", "csv", "tsv"):
        return  # of the others the schema tells, or nothing
    if first and len(drops) == len(first) and all(drop.reason in _NOT_OF_COLUMN for drop in drops):
        if "JSON list" in drops[0].detail:
            raise UserError(f"sources.{name}: {part.url} is {ARRAY}; write each item on a line of its own")
        raise UserError(
            f"sources.{name}: none of the first {len(drops)} records of {part.url} gives a text "
            f"({drops[0].reason}: {drops[0].detail}); name the column by sources.{name}.text_column, or "
            f"the kind of file by sources.{name}.format"
        )


def require_few_broken(name: str, source: Source, read: int, dropped: Mapping[str, int]) -> None:
    """Hold a source's records, as counted so far, against its `max_broken`. Raises FailedWork.

    A share can be judged once the whole source is read, a count at any time.
    """
    broken = {reason: dropped[reason] for reason in BROKEN if dropped.get(reason)}
    count, limit = sum(broken.values()), source.max_broken
    if limit is None or count <= (limit * read if limit < 1 else limit):
        return
    told = ", ".join(f"{reason} {number:,}" for reason, number in broken.items())
    raise FailedWork(
        f"sources.{name}: {count:,} of {read:,} records are broken ({told}), more than "
        f"sources.{name}.max_broken ({limit:g}) allows; look at what was dropped, mend the files or raise it"
    )
