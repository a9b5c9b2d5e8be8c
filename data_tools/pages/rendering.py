"""Writes the text of a page: all of it, or its main content without navigation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data_tools.pages.blocks import BlockWriter, Place
from data_tools.pages.markup import count_visible, split_markup, unescape
from data_tools.pages.roles import BLOCK_NAMES, Kind, Region, Tag, is_permalink_text, tag_of

if TYPE_CHECKING:
    from resiliparse.parse.html import HTMLTree

_SOME_LINKS = 0.3
_MOSTLY_LINKS = 0.5
_ALL_LINKS = 0.8
_WORDS_OF_A_MENU = 20  # characters for each link that are not in it
_LINKS_OF_A_LIST = 3
_PROSE_CHARACTERS = 100
_NOWHERE = Place(0, 0, 0)


@dataclass(frozen=True)
class Rendered:
    """The text of a page, and what became of the characters that a reader sees (spaces do not count)."""

    text: str
    visible: int
    """Characters of the page outside invisible elements."""
    left_out: int
    """Characters in what was taken for navigation."""
    lost: int
    """Characters outside it that are missing from the text: 0, or there is a mistake here."""


@dataclass
class _Open:
    """An element whose fate is decided at its end."""

    tag: Tag
    depth: int
    place: Place
    """Where the element began."""
    visible: int
    left_out: int
    linked: int
    links: int
    mains: int
    titles: int
    in_content: bool
    after_prose: bool


@dataclass
class _Page:
    """The state of a walk through a page."""

    total: int
    """Characters of all texts, invisible ones too."""
    main_content: bool
    writer: BlockWriter = field(default_factory=BlockWriter)
    depth: int = 0
    visible: int = 0
    left_out: int = 0
    linked: int = 0
    links: int = 0
    in_link: int = 0
    """The depth of the link that is open; 0: none."""
    mains: int = 0
    titles: int = 0
    content: list[int] = field(default_factory=list)
    """The depths of the open elements that say they are the content."""
    opened: list[_Open] = field(default_factory=list)
    after_prose: bool = False
    """Whether the last block that ended is a paragraph that is not a link."""


def render(tree: HTMLTree, *, main_content: bool) -> Rendered:
    """Return the text of a parsed page.

    Blocks are lines, paragraphs are separated by an empty line; the cells of a row and a term and its
    definition are separated by a tab; list items begin with "•" or their number; preformatted text of more
    than one line stands between fences (```), unchanged. Every visible character outside what is left out is
    in the text, in the order of the page.
    """
    parts = split_markup(tree)
    texts: list[str] = parts[::3]  # type: ignore[assignment]
    page = _Page(count_visible("".join(texts)), main_content)
    writer, hidden = page.writer, 0
    for text, tag, raw in zip(texts, parts[1::3], parts[2::3], strict=False):
        if text and not hidden:
            _text(page, unescape(text) if "&" in text else text)
        assert tag is not None
        if tag[0] == "/":
            if page.depth == hidden:
                hidden = 0
            elif not hidden:
                _end(page, tag[1:])
            page.depth -= 1
            continue
        if raw is not None or tag[0] in "!?":
            if raw == "xmp" and not hidden:
                _preformatted(page, tag.partition(">")[2].rpartition("</")[0])
            continue
        found = tag_of(tag)
        if not found.void:
            page.depth += 1
        if hidden:
            continue
        if found.region == Region.INVISIBLE:
            hidden = 0 if found.void else page.depth
            writer.gap(found.gap)
        elif found.decides:
            _start(page, found)
    if texts[-1] and not hidden:
        _text(page, unescape(texts[-1]))
    text, marks = writer.finish()
    lost = page.visible - page.left_out - (count_visible(text) - marks)
    return Rendered(text, page.visible, page.left_out, lost)


def _text(page: _Page, text: str) -> None:
    count = 0 if text.isspace() else count_visible(text)
    page.writer.text(text, blank=not count)
    if count:
        page.visible += count
        if page.in_link:
            page.linked += count


def _preformatted(page: _Page, text: str) -> None:
    """An element whose tags are text."""
    page.writer.start(tag_of("pre"))
    _text(page, text)
    page.writer.end("pre")


def _start(page: _Page, tag: Tag) -> None:
    writer = page.writer
    writer.start(tag)
    if tag.void:
        return
    match tag.kind:
        case Kind.LINK:
            page.links += 1
            page.in_link = page.in_link or page.depth
        case Kind.MAIN:
            page.mains += 1
            page.content.append(page.depth)
    page.titles += tag.name == "h1"
    region = tag.region and page.main_content
    if region or tag.name == "p":
        page.opened.append(
            _Open(
                tag,
                page.depth,
                writer.place(block=tag.gap > 0 or tag.kind == Kind.CELL) if region else _NOWHERE,
                page.visible,
                page.left_out,
                page.linked,
                page.links,
                page.mains,
                page.titles,
                bool(page.content),
                page.after_prose,
            )
        )
    if tag.gap and not tag.wraps_list:
        page.after_prose = False


def _end(page: _Page, name: str) -> None:
    writer = page.writer
    if page.opened and page.opened[-1].depth == page.depth:
        begun = page.opened.pop()
        characters = page.visible - begun.visible
        if begun.tag.name == "p":
            page.after_prose = characters > 2 * (page.linked - begun.linked)
        else:
            page.after_prose = False
        if _is_left_out(page, begun, characters) and writer.drop(begun.place):
            page.left_out = begun.left_out + characters
    if page.in_link == page.depth:
        page.in_link = 0
    if page.content and page.content[-1] == page.depth:
        page.content.pop()
    if name in BLOCK_NAMES:
        writer.end(name)


def _is_left_out(page: _Page, begun: _Open, characters: int) -> bool:
    """Whether an element that has ended is navigation and not content."""
    if not page.main_content or not characters or page.mains > begun.mains:
        return False
    linked = page.linked - begun.linked
    links = page.links - begun.links
    share = linked / characters
    # Where an end tag is missing, the page's content is in its menu.
    if characters > page.total / 2 and share < _MOSTLY_LINKS and begun.tag.region != Region.PERMALINK:
        return False
    match begun.tag.region:
        case Region.NAVIGATION:
            return page.titles == begun.titles or begun.tag.name == "nav"
        case Region.PERHAPS:
            short = characters <= _PROSE_CHARACTERS and not begun.in_content
            return page.titles == begun.titles and (share >= _MOSTLY_LINKS or short)
        case Region.LINKS:
            prose = characters - linked > _WORDS_OF_A_MENU * (links + 1)
            return share >= (_MOSTLY_LINKS if begun.in_content else _SOME_LINKS) and not prose
        case Region.LIST:
            few = links < _LINKS_OF_A_LIST or begun.in_content or begun.after_prose
            return share >= _ALL_LINKS and not few
        case Region.PERMALINK:
            return is_permalink_text(page.writer.since(begun.place).strip())
        case Region.OUTSIDE:
            return not begun.in_content
        case Region.SITE_HEADER:
            return not begun.in_content and page.titles == begun.titles
    return False
