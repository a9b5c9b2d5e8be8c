"""Reads the bytes of a page as text, whatever encoding they are in and whatever is said of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_tools.readers.charset import charset_of, is_wide, python_name, unicode_form

# A page in the encoding that it names may have a few broken bytes; one in another has many.
_MOST_BROKEN = 0.02
_LEAST_HANGUL = 0.9
_HANGUL = re.compile("[\uac00-\ud7a3]")
_NOT_ASCII = re.compile("[^\x00-\x7f]")
_ASCII = bytes(range(128))


def decode_page(content: bytes, declared: str | None) -> str:
    """Return the text of a page.

    By its byte order mark or its zero bytes (UTF-16, UTF-32); else as UTF-8 where it is that; else by the
    declared charset, by the page's own, or by its bytes. `declared` is what the server said, and often
    wrong: an encoding that most of the page does not fit is not taken. Broken bytes become U+FFFD.
    """
    if form := unicode_form(content):
        return content.decode(form, "replace")
    escapes = b"\x1b$" in content or b"\x1b(" in content  # ISO-2022-JP: ASCII, whatever is said of it.
    if not escapes:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    named = list(_said(content, declared))
    for encoding in ([_by_bytes(content)] if escapes else []) + named:
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    for encoding in named:
        text = content.decode(encoding, "replace")
        if text.count("\ufffd") <= _MOST_BROKEN * len(content.translate(None, _ASCII)) + 1:
            return text
    return content.decode(_by_bytes(content), "replace")


def _said(content: bytes, declared: str | None) -> Iterator[str]:
    """The encodings that the server and the page name."""
    for label in (declared, charset_of(content)):
        name = python_name(label) if label else None
        if name and (not is_wide(name) or b"\0" in content):
            yield name


def _by_bytes(content: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    found = detect_encoding(content) or "utf-8"
    if found == "utf-8" and _is_korean(content):
        return "cp949"
    name = python_name(found) or "utf-8"
    return "utf-8" if is_wide(name) else name


def _is_korean(content: bytes) -> bool:
    """Whether the bytes are Hangul in EUC-KR, which the detector takes for broken UTF-8."""
    text = content.decode("cp949", "ignore")
    hangul = len(_HANGUL.findall(text))
    return hangul > 0 and hangul >= _LEAST_HANGUL * len(_NOT_ASCII.findall(text))
