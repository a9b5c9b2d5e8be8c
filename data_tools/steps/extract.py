"""Turns a page of HTML into its text: the main text alone, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from data_tools.document import Document, Drop, Step
from data_tools.pages import Rendered, render
from data_tools.pages.decoding import decode_page
from data_tools.pages.markup import count_visible
from data_tools.sections import Section
from megatrain.errors import UserError, install

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

__all__ = ["Extract", "decode_page"]

# As deep as browsers build a page (Chrome: 512). The main text of one of 16,000 took 9 seconds to find.
_MOST_DEPTH = 512
_TOO_DEEP = ">".join("*" * (_MOST_DEPTH + 1))
# The text of a page's HTML; None where the page is nested too deep.
TextOf = Callable[[str], Rendered | None]
# A page is damaged where more than this share of what was chosen as its text is not in the text.
_DAMAGED = 0.005
_BUCKETS = 4


class Extract(Section):
    """How the text of a page is found; a document without a page (plain text) goes on as it is.

    main_text: everything but navigation, by the rules of data_tools.pages; no character of what is kept is
    lost. trafilatura: the main text, for precision, what FineWeb took (arXiv:2406.17557); about half as much
    text, and it may lose list items and short texts. all_text: everything that a reader would see, menus too.
    resiliparse: another name of main_text, as older configs have it.
    """

    method: Literal["main_text", "resiliparse", "trafilatura", "all_text"] = "main_text"
    max_bytes: Annotated[int, Field(ge=1)] = 10_000_000
    """A larger page is dropped unread."""

    def build(self) -> Step:
        """The step. Raises UserError where the method's package is not installed."""
        try:
            match self.method:
                case "main_text" | "resiliparse":
                    return partial(_step, self.max_bytes, _rendered(main_content=True))
                case "trafilatura":
                    return partial(_step, self.max_bytes, _trafilatura())
                case "all_text":
                    return partial(_step, self.max_bytes, _rendered(main_content=False))
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
        found = text_of(html)
    except Exception as error:  # Whatever a parser makes of the web's worst page: one page less, not the end.
        return Drop("extract.failed", f"{type(error).__name__}: {error}")
    if found is None:
        return Drop("extract.too_deep", f"more than {_MOST_DEPTH} elements within one another")
    text = found.text
    if not text or text.isspace():
        return Drop("extract.no_text", html[:200])
    if "\ufffd" in html:
        document.counts["extract.invalid_characters"] += html.count("\ufffd")
    _count(found, document)
    document.text, document.content = text, None
    return document


def _too_deep(tree: HTMLTree) -> bool:
    return tree.document is not None and tree.document.query_selector(_TOO_DEEP) is not None


def _rendered(*, main_content: bool) -> TextOf:
    from resiliparse.parse.html import HTMLTree

    def text_of(html: str) -> Rendered | None:
        tree = HTMLTree.parse(html)
        return None if _too_deep(tree) else render(tree, main_content=main_content)

    return text_of


def _trafilatura() -> TextOf:
    import trafilatura
    from resiliparse.parse.html import HTMLTree

    def text_of(html: str) -> Rendered | None:
        tree = HTMLTree.parse(html)
        if _too_deep(tree):
            return None
        text = trafilatura.extract(html, favor_precision=True, include_comments=False) or ""
        visible = render(tree, main_content=False).visible
        # Which parts it chose is not known, and so not what is missing from them.
        return Rendered(text, visible, max(visible - count_visible(text), 0), lost=0)

    return text_of


def _count(found: Rendered, document: Document) -> None:
    """Count what the extraction kept of a page, and whether it damaged the page."""
    chosen = found.visible - found.left_out
    if abs(found.lost) > _DAMAGED * chosen:
        document.counts["extract.damaged"] += 1
    share = min(chosen / max(found.visible, 1), 1.0)
    bucket = min(int(share * _BUCKETS), _BUCKETS - 1)
    width = 100 // _BUCKETS
    document.counts[f"extract.kept_{bucket * width}_to_{(bucket + 1) * width}_percent"] += 1
