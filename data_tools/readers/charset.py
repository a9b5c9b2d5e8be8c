"""Which encoding a text or a web page is in, by its bytes and by what it and its server say."""

from __future__ import annotations

import codecs
import re
import unicodedata
from functools import lru_cache

from data_tools.readers.source import encoding_of

_LOOKED_AT_BYTES = 4096
_META = re.compile(rb"""<meta\b[^>]{0,300}?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml\b[^>]{0,100}?\bencoding\s*=\s*["']([\w.:-]+)""")
_PARAMETER = re.compile(r"""\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MARKS = (  # that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TEXT = ("Cc", "Cn", "Co", "Cs")
_SPACES = "\t\n\r\f"
_LEAST_ZEROS = 0.3
# Pages say the narrower name and use the characters of the wider: encoding.spec.whatwg.org, names and labels.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "euc_jp": "euc_jis_2004",
}


def unicode_form(start: bytes) -> str | None:
    """Return the encoding that the first bytes of a text show: by a byte order mark ("utf-8-sig", "utf-16",
    "utf-32"), or without one by where its zero bytes are ("utf-16-le", "utf-32-be", ...); None otherwise."""
    for mark, marked in _MARKS:
        if start.startswith(mark):
            return marked
    start = start[:_LOOKED_AT_BYTES]
    zeros = start.count(0)
    if not zeros or (zeros < _LEAST_ZEROS * len(start) and _is_text(start.replace(b"\0", b""), "utf-8")):
        return None  # a few bytes of zero in a text of another encoding
    for name in ("utf-32-le", "utf-32-be"):
        if len(start) >= 4 and _is_text(start[: len(start) // 4 * 4], name):
            return name
    # Letters of markup, digits and spaces have a zero byte each: the second one in UTF-16-LE.
    ascii_in = {"utf-16-le": start[1::2].count(0), "utf-16-be": start[::2].count(0)}
    for name in sorted(ascii_in, key=lambda name: -ascii_in[name]):
        if ascii_in[name] and _is_text(start[: len(start) // 2 * 2], name):
            return name
    return None


def is_wide(encoding: str) -> bool:
    """Whether an encoding has two or four bytes for every ASCII character."""
    return encoding.startswith(("utf-16", "utf-32", "utf_16", "utf_32"))


def _is_text(start: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start)
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c in _SPACES or unicodedata.category(c) not in _NO_TEXT for c in text)


def charset_of(content: bytes, content_type: str = "") -> str | None:
    """Return the name, as Python has it, of a page's encoding; None where nothing says it."""
    if found := unicode_form(content):
        return found.removesuffix("-sig")
    said = _PARAMETER.search(content_type)
    name = python_name(said[1]) if said else None
    if name and (not is_wide(name) or b"\0" in content):
        return name
    start = content[:_LOOKED_AT_BYTES]
    if match := _META.search(start) or _XML.search(start):
        said_name = python_name(match[1].decode("ascii", "replace"))
        # What could be read as ASCII is not in UTF-16, whatever it says.
        return "utf-8" if said_name and is_wide(said_name) else said_name
    return None


@lru_cache
def python_name(label: str) -> str | None:
    """Return Python's name of the encoding that a page means by a label; None for an unknown one."""
    name = encoding_of(label)
    return None if name is None else _WIDER.get(name, name)
