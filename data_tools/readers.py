"""Raw files to raw documents: which files a source has, and how each kind is read."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from data_tools.document import Document, Drop
from data_tools.sections import Section
from megatrain.errors import UserError, require

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
_CHUNK_BYTES = 1 << 20


class Source(Section):
    files: tuple[str, ...]
    text_column: str = "text"
    document_separator: str | None = None
    invalid_utf8: Literal["replace", "skip"] = "replace"


@dataclass(frozen=True)
class Raw:
    """A document as read. `had_invalid_utf8` says that the text holds U+FFFD in place of bytes."""

    text: str
    had_invalid_utf8: bool


@dataclass(frozen=True)
class Unreadable:
    """A document that could not be read, and why."""

    reason: Literal["broken_json", "no_text"]


def find_files(name: str, source: Source):
    return [InputPart(str(p), p.stat().st_size, str(p.stat().st_mtime_ns)) for p in _find_files(name, source)]


def _find_files(name: str, source: Source) -> list[Path]:
    """The files of a source, each pattern's in the order of their names.

    Raises UserError where a pattern matches none, a file is of an unknown kind or all are empty.
    """
    found: list[Path] = []
    for pattern in source.files:
        path = Path(pattern)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        else:
            matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
        require(
            matches,
            f"sources.{name}.files: {pattern}: no such file, or a folder without {', '.join(SUFFIXES)}",
        )
        found += [match for match in matches if match not in found]
    for path in found:
        require(
            path.name.endswith(SUFFIXES),
            f"sources.{name}.files: {path}: unknown kind of file; known are {', '.join(SUFFIXES)}",
        )
    require(
        any(path.stat().st_size for path in found),
        f"sources.{name}.files: every file is empty ({found[0]} ...); give it text",
    )
    return found


def read_documents(part, source, name):
    for n, raw in enumerate(_read_documents(Path(part.url), source)):
        if isinstance(raw, Unreadable):
            yield n, Drop("read." + raw.reason)
        elif raw.had_invalid_utf8 and source.invalid_utf8 == "skip":
            yield n, Drop("read.invalid_utf8")
        else:
            d = Document(raw.text, name)
            if raw.had_invalid_utf8:
                d.counts["read.invalid_utf8"] += 1
            yield n, d


def _read_documents(path: Path, source: Source) -> Iterator[Raw | Unreadable]:
    """The documents of one file, in order. Raises UserError where a compressed file is damaged."""
    try:
        with _open(path) as stream:
            match path.name.removesuffix(".gz").rsplit(".", 1)[-1]:
                case "jsonl":
                    yield from (_json_line(line, source.text_column) for line in stream if line.strip())
                case "txt":
                    separator = source.document_separator
                    parts = [stream.read()] if separator is None else _parts(stream, separator.encode())
                    yield from map(_decode, parts)
                case kind:
                    raise UserError(f"{path}: unknown kind of file {kind!r}; known are {', '.join(SUFFIXES)}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: compressed file damaged or cut short ({error}); replace it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _parts(stream: IO[bytes], separator: bytes) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _decode(content: bytes) -> Raw:
    try:
        return Raw(content.decode("utf-8"), False)
    except UnicodeDecodeError:
        return Raw(content.decode("utf-8", errors="replace"), True)


def _json_line(line: bytes, column: str) -> Raw | Unreadable:
    raw = _decode(line)
    try:
        # A line's own U+FEFF, at the start of some files, is no part of JSON.
        tree: Any = json.loads(raw.text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return Unreadable("broken_json")
    text = tree.get(column) if isinstance(tree, dict) else None
    return Raw(text, raw.had_invalid_utf8) if isinstance(text, str) else Unreadable("no_text")


@dataclass(frozen=True)
class InputPart:
    url: str
    bytes: int
    modified: str

    def content_hash(self) -> str:
        from megatrain.durable import hash_file

        return hash_file(Path(self.url))
