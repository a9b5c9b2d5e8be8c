"""Which encoding a web page is in, by what it and its server say; as browsers take it."""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

from data_tools.readers.source import encoding_of

_LOOKED_AT_BYTES = 4096
_META = re.compile(rb"""<meta\b[^>]{0,300}?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml\b[^>]{0,100}?\bencoding\s*=\s*["']([\w.:-]+)""")
_PARAMETER = re.compile(r"""\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
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
}


def charset_of(content: bytes, content_type: str = "") -> str | None:
    """The name, as Python has it, of a page's encoding; None where nothing says it."""
    for mark, marked in _MARKS:
        if content.startswith(mark):
            return marked
    if (said := _PARAMETER.search(content_type)) and (name := _known(said[1])):
        return name
    start = content[:_LOOKED_AT_BYTES]
    if found := _META.search(start) or _XML.search(start):
        said_name = _known(found[1].decode("ascii", "replace"))
        # What could be read as ASCII is not in UTF-16, whatever it says.
        return "utf-8" if said_name and said_name.startswith("utf-16") else said_name
    return None


@lru_cache
def _known(label: str) -> str | None:
    name = encoding_of(label)
    return None if name is None else _WIDER.get(name, name)
