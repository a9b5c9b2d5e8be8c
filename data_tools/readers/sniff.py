"""What the first bytes of a file say it is: binary, or of another format than it is to be read as."""

from __future__ import annotations

import re

from data_tools.document import Drop
from data_tools.readers.charset import is_wide, unicode_form
from data_tools.readers.raw import Stream
from data_tools.readers.source import Format, Source

LOOKED_AT_BYTES = 4096
REASONS = ("read.binary", "read.other_format")
"""Why a file is dropped whole."""
ARRAY = "one JSON array, not JSON Lines (an object a line)"
PRETTY = "JSON objects over several lines each, not JSON Lines (an object a line)"
_TEXTS: tuple[Format, ...] = ("txt", "jsonl", "html", "csv", "tsv", "markdown")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF file (WebP, WAV or AVI)"),
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data; set compression: gz"),
    (b"\x28\xb5\x2f\xfd", "zstd data; set compression: zst"),
    (b"\xfd7zXZ\0", "xz data; set compression: xz"),
    (b"BZh", "bzip2 data; set compression: bz2"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1\0\0", "an Arrow file"),
)
_BEGINS = {
    "parquet": (b"PAR1",),
    "arrow": (b"ARROW1\0\0", b"\xff\xff\xff\xff"),
    "warc": (b"WARC/",),
    "wet": (b"WARC/",),
    "jsonl": (b"{",),
}
# As browsers tell HTML: mimesniff.spec.whatwg.org; behind an XML declaration and comments too.
_HTML = re.compile(
    rb"(?:<\?xml\b[^>]*>|<!--.*?-->|\s)*<(?:!doctype\s+html|"
    rb"(?:html|head|body|title|script|style|iframe|table|div|font|h1|br|p|a|b)[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b"))
_FEW, _SHORT = 8, 0.3
_MOST_CONTROL = 0.01
"""Of the first bytes; a stray zero byte in a text is none, neither are lines with a few of them."""


def foreign(stream: Stream, form: Format, source: Source, *, by_content: bool) -> Drop | None:
    """Return why a file is none of a format, by its first bytes; None where it may be one.

    by_content: the file was found in a folder, and neither its name nor a pattern says that it is one.
    """
    start = stream.peek(LOOKED_AT_BYTES)[:LOOKED_AT_BYTES]
    if not start:
        return None
    if form in _TEXTS and not (source.encoding and is_wide(source.encoding)):
        begins_as_lines = form == "jsonl" and start.lstrip().startswith(b"{")  # bad lines count by themselves
        if (what := binary(start)) and not begins_as_lines:
            return Drop("read.binary", what)
        if (wide := unicode_form(start)) and is_wide(wide):
            start = start[: len(start) // 4 * 4].decode(wide, "replace").encode("utf-8", "replace")
    if form == "jsonl" and (other := other_json(start)):
        return Drop("read.other_format", other)
    if by_content and not _begins_as(start, form):
        return Drop("read.other_format", f"does not begin as {form}: {start[:20]!r}")
    return None


def other_json(start: bytes) -> str | None:
    """Return what a file of JSON is whose first line is no whole value, and how to make lines of it."""
    line, end, _ = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if not (end and line.startswith((b"[", b"{")) and line.rstrip().endswith((b"[", b"{", b","))):
        return None
    if line.startswith(b"["):
        return f"{ARRAY}; convert it, e.g. with `jq -c '.[]' FILE > FILE.jsonl`"
    return f"{PRETTY}; convert it, e.g. with `jq -c . FILE > FILE.jsonl`"


def binary(start: bytes) -> str | None:
    """Return what a file is by its first bytes where that is no text."""
    for magic, what in _MAGIC:
        if start.startswith(magic) and not (magic.isalnum() and _is_plain(start)):
            return what
    if unicode_form(start):
        return None
    count = len(start) - len(start.translate(None, _CONTROL))
    many = count > _MOST_CONTROL * len(start) and (count >= _FEW or count > _SHORT * len(start))
    return "binary: zero bytes or control characters" if many else None


def _is_plain(start: bytes) -> bool:
    """Whether nothing but letters begin a text: "RIFF is a format ..." is one."""
    return len(start) == len(start.translate(None, _CONTROL)) and not unicode_form(start) and _utf8(start)


def _utf8(start: bytes) -> bool:
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _begins_as(start: bytes, form: Format) -> bool:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    match form:
        case "txt" | "csv" | "tsv" | "markdown":
            return True
        case "html":
            return _HTML.match(text) is not None
        case "jsonl":
            return text.startswith(_BEGINS[form])
        case _:
            return start.startswith(_BEGINS[form])
