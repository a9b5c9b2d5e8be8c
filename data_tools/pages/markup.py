"""Splits a parsed page into its tags and its texts, in the order of the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

# The parser writes markup in one form: lower-case names, every attribute as name="value", every element that
# is not void with its end tag, `<` and `&` in texts as references. A name may hold a quotation mark, as in
# <a href="x"">, so an attribute is matched as a whole.
_ATTRIBUTE = r' [^ \t\n\f\r/>][^ \t\n\f\r/>=]*(?:="[^"]*+")?'
_RAW = "script|style|iframe|noembed|noframes|xmp"
_TAG = re.compile(
    rf"<(!--.*?--|\?[^>]*|![^>]*|({_RAW})(?:{_ATTRIBUTE})*+>.*?</\2"
    rf"|/?[a-zA-Z][^ \t\n\f\r/>]*+(?:{_ATTRIBUTE})*+)>",
    re.DOTALL,
)
_ATTRIBUTES = re.compile(r' ([^ \t\n\f\r/>][^ \t\n\f\r/>=]*)(?:="([^"]*)")?')


def names_of(names: str) -> frozenset[str]:
    """Return the names of elements, written with spaces between them."""
    return frozenset(names.split())


VOID = names_of(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
)


def split_markup(tree: HTMLTree) -> list[str | None]:
    """Return the page as [text, tag, raw, text, tag, raw, ..., text]: `tag` is what stands between `<` and
    `>`, `raw` the name where it is an element with everything in it ("script"), else None."""
    document = tree.document
    parts: list[str | None] = _TAG.split(document.html) if document is not None else [""]
    return parts


def parse_tag(tag: str) -> tuple[str, dict[str, str]]:
    """Return the name and the attributes of a start tag."""
    name, space, _ = tag.partition(" ")
    if not space:
        return name, {}
    return name, {key.lower(): unescape(value or "") for key, value in _ATTRIBUTES.findall(tag, len(name))}


def unescape(text: str) -> str:
    """Return a text with the five references that the parser writes resolved."""
    if "&" not in text:
        return text
    text = text.replace("&nbsp;", "\xa0").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    return text.replace("&amp;", "&")


def count_visible(text: str) -> int:
    """Return the number of characters that are not spaces."""
    return len("".join(text.split()))
