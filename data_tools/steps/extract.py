"""Turns a page of HTML into its text: the main text alone, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from data_tools.document import Document, Drop, Step
from data_tools.sections import Section
from megatrain.errors import UserError, install

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

# As deep as browsers build a page (Chrome: 512). The main text of one of 16,000 took 9 seconds to find.
_MOST_DEPTH = 512
_TOO_DEEP = ">".join("*" * (_MOST_DEPTH + 1))
# The text of a page's HTML; None where the page is nested too deep.
TextOf = Callable[[str], str | None]


class Extract(Section):
    """How the text of a page is found; a document without a page (plain text) goes on as it is.

    resiliparse: the main text by its rules, what DCLM took (arXiv:2406.11794); ten times as fast as
    trafilatura, and keeps about twice as much. trafilatura: the main text, for precision, what FineWeb took
    (arXiv:2406.17557). all_text: everything that a reader would see, menus too.
    """

    method: Literal["resiliparse", "trafilatura", "all_text"] = "resiliparse"
    max_bytes: Annotated[int, Field(ge=1)] = 10_000_000
    """A larger page is dropped unread."""

    def build(self) -> Step:
        """The step. Raises UserError where the method's package is not installed."""
        try:
            match self.method:
                case "resiliparse":
                    return partial(_step, self.max_bytes, _resiliparse(main_content=True))
                case "trafilatura":
                    return partial(_step, self.max_bytes, _trafilatura())
                case "all_text":
                    return partial(_step, self.max_bytes, _resiliparse(main_content=False))
        except ImportError as error:
            raise UserError(f"extract.method {self.method}: {error}: {install('data')}") from None


def _step(max_bytes: int, text_of: TextOf, document: Document) -> Document | Drop:
    content = document.content
    if content is None:
        return document
    if len(content) > max_bytes:
        return Drop("extract.too_large", f"{len(content):,} bytes")
    try:
        html = decode_page(content, document.metadata.get("charset"))
        text = text_of(html)
    except Exception as error:  # Whatever a parser makes of the web's worst page: one page less, not the end.
        return Drop("extract.failed", f"{type(error).__name__}: {error}")
    if text is None:
        return Drop("extract.too_deep", f"more than {_MOST_DEPTH} elements within one another")
    if not text or text.isspace():
        return Drop("extract.no_text", html[:200])
    if "\ufffd" in html:
        document.counts["extract.invalid_characters"] += html.count("\ufffd")
    document.text, document.content = text, None
    return document


def decode_page(content: bytes, declared: str | None) -> str:
    """The text of a page: UTF-8 where it is that, else by the declared charset, its meta tag, its bytes.

    What fits none of them becomes U+FFFD. `declared` is what the server said, and often wrong.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if b"\x1b" not in content:  # ISO-2022-JP and its like are ASCII with escapes.
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    named = map_encoding_to_html5(declared, fallback_utf8=False) if declared else None
    for encoding in filter(None, (named, detect_encoding(content, from_html_meta=True))):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode(detect_encoding(content) or "utf-8", "replace")


def _too_deep(tree: HTMLTree) -> bool:
    return tree.document is not None and tree.document.query_selector(_TOO_DEEP) is not None


def _resiliparse(*, main_content: bool) -> TextOf:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    def text_of(html: str) -> str | None:
        tree = HTMLTree.parse(html)
        if _too_deep(tree):
            return None
        return extract_plain_text(tree, main_content=main_content, alt_texts=False, comments=not main_content)

    return text_of


def _trafilatura() -> TextOf:
    import trafilatura
    from resiliparse.parse.html import HTMLTree

    def text_of(html: str) -> str | None:
        if _too_deep(HTMLTree.parse(html)):
            return None
        return trafilatura.extract(html, favor_precision=True, include_comments=False) or ""

    return text_of
