"""The section of one source, and what a file's name says of its format and compression."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from data_tools.sections import Section
from megatrain.errors import UserError
from megatrain.settings import PathText, expanded

Format = Literal["txt", "jsonl", "parquet", "arrow", "warc", "wet", "html", "csv", "tsv", "markdown"]
Compression = Literal["none", "gz", "zst", "bz2", "xz"]

_SUFFIXES: dict[str, Format] = {
    "txt": "txt",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",  # C4 and others name JSON lines so
    "parquet": "parquet",
    "arrow": "arrow",
    "warc": "warc",
    "wet": "wet",
    "html": "html",
    "htm": "html",
    "csv": "csv",
    "tsv": "tsv",
    "md": "markdown",
    "markdown": "markdown",
    "xhtml": "html",
    "xht": "html",
}
KNOWN = ", ".join(f".{suffix}" for suffix in _SUFFIXES)
COLUMNS: tuple[Format, ...] = ("jsonl", "parquet", "arrow", "csv", "tsv", "markdown")
"""Whose records have named columns, or a front matter with named values."""
_NOT_IN_FOLDERS: tuple[Format, ...] = ("csv", "tsv", "markdown")
"""Next to data of other kinds these describe it (README.md, labels.csv)."""
KNOWN_IN_FOLDERS = ", ".join(
    f".{suffix}" for suffix, form in _SUFFIXES.items() if form not in _NOT_IN_FOLDERS
)
_COMPRESSED_WITHIN: tuple[Format, ...] = ("parquet", "arrow")


def _listed(text: str) -> str:
    return f"@{expanded(text[1:])}" if text.startswith("@") else expanded(text)


ListedText = Annotated[str, AfterValidator(_listed)]
"""A path like any other, or "@" and the path of a list."""


class Source(Section):
    """Where one source's documents are, and how they are read."""

    files: Annotated[tuple[ListedText, ...], Field(min_length=1)]
    """Paths, globs, folders (with all below them) and URLs (s3://, gs://, https://, ...); "@list.txt" stands
    for the lines of that file."""
    root: PathText = ""
    """What stands before the relative ones: a folder or a URL; "": the working directory."""
    format: Format | None = None
    """null: as each file's name says."""
    compression: Compression | None = None
    """null: as each file's name says."""
    text_column: str = "text"
    """What holds the text in jsonl, parquet, arrow, csv and tsv; "a.b" is the field b of a, but in csv."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """What else to keep of a record: its name there -> the column, for warc and wet the header, for markdown
    the key of the front matter."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What stands between the fields of csv and tsv; null: a comma, and a tab."""
    quote: Annotated[str, Field(max_length=1)] | None = None
    """What stands around fields of csv and tsv that hold delimiters or line ends, doubled within them; "":
    nothing, as in many TSV files; null: a double quote."""
    document_separator: Annotated[str, Field(min_length=1)] | None = None
    """For txt: what stands between documents; null: a file is a document."""
    encoding: str | None = None
    """Of txt, jsonl, csv, tsv, markdown and binary columns: gb18030, shift_jis, ...; null: as a byte order
    mark, or the zero bytes of UTF-16 and UTF-32, say, else UTF-8. Of html, warc and
    wet: where a page does not say its own."""
    invalid_bytes: Literal["replace", "skip"] = "replace"
    """Bytes that are no text in the encoding: U+FFFD in their place, or the document is dropped."""
    max_document_bytes: Annotated[int, Field(gt=0)] = 64 << 20
    """A longer record is dropped; a line, a text or a page that is longer is never whole in memory."""
    max_broken: Annotated[float, Field(ge=0)] | None = None
    """How many of the source's records may be broken before the work fails: a share below 1, else a count;
    null: any number."""
    on_damage: Literal["fail", "skip"] = "fail"
    """A file that is cut short or damaged: the work fails, or goes on with what came before the damage."""

    @field_validator("encoding")
    @classmethod
    def _is_an_encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None and encoding_of(encoding) is None:
            raise ValueError("no known encoding; take one like utf-8, gb18030 or shift_jis")
        return encoding


def encoding_of(label: str) -> str | None:
    """Python's name of an encoding; None where it is none, or one that not all bytes can be read in."""
    try:
        "".encode(label)  # zip and rot13 are codecs, but not of text
        codecs.getincrementaldecoder(label)
        name = codecs.lookup(label).name
        if "escape" in name:
            return None  # that is Python's own source
        bytes(range(256)).decode(label, "replace")  # idna does not go on after an error
    except (LookupError, ValueError):
        return None
    return name


@dataclass(frozen=True)
class Kind:
    """How the bytes of a file are to be taken."""

    format: Format
    compression: Compression


def kind_of(url: str, source: Source) -> Kind | None:
    """The kind of a file, as the source or else the name says; None where neither does."""
    compression = compression_of(url)
    form = source.format or named_format(url)
    return None if form is None else Kind(form, source.compression or compression)


def kind_in_folder(url: str, source: Source) -> Kind | None:
    """The kind of a file that a folder was looked through for; None where it is not taken.

    Tables of text and Markdown are taken by name or glob, or with the source's `format`.
    """
    kind = kind_of(url, source)
    return None if kind and source.format is None and kind.format in _NOT_IN_FOLDERS else kind


def named_format(url: str) -> Format | None:
    """The format that a file's name tells; None where it tells none."""
    return _SUFFIXES.get(_path(url).removesuffix(f".{compression_of(url)}").rpartition(".")[2])


def compression_of(url: str) -> Compression:
    """What a file's name says of its compression."""
    last = _path(url).rpartition(".")[2]
    known: tuple[Compression, ...] = get_args(Compression)
    return next((one for one in known if one == last), "none")


def _path(url: str) -> str:
    return (urlsplit(url).path if url.startswith(("http://", "https://")) else url).lower()


def require_kind(url: str, source: Source, name: str) -> Kind:
    """The kind of a file. Raises UserError where it is unknown or cannot be read so."""
    kind = kind_of(url, source)
    if kind is None:
        raise UserError(
            f"sources.{name}.files: {url}: unknown kind of file; known are {KNOWN}, and with .gz, .zst, .bz2 "
            f"or .xz after them; say sources.{name}.format if it is one of them by another name"
        )
    if kind.format in _COMPRESSED_WITHIN and kind.compression != "none":
        raise UserError(
            f"sources.{name}.files: {url}: a {kind.format} file within .{kind.compression} cannot be read "
            "piece by piece; decompress it (such files are compressed within)"
        )
    return kind
