"""Decides by its tag what an element is to the text of a page: a block, invisible, navigation, a link."""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from data_tools.pages.markup import VOID, names_of, parse_tag


class Kind(IntEnum):
    """What the renderer does at a tag."""

    INLINE = 0
    BLOCK = 1
    BREAK = 2
    RULE = 3
    CELL = 4
    ROW = 5
    LIST = 6
    ITEM = 7
    TERM = 8
    DEFINITION = 9
    PREFORMATTED = 10
    LINK = 11
    MAIN = 12
    """The page's own statement of what its content is."""


class Region(IntEnum):
    """Whether an element may be left out of the main text; decided at its end, by what it holds."""

    CONTENT = 0
    INVISIBLE = 1
    """A reader of the page does not see it: left out always."""
    NAVIGATION = 2
    """Navigation by its name: left out unless it holds the page's content."""
    PERHAPS = 3
    """A name that navigation often has and content sometimes: left out where it is mostly links, or outside
    the content and short."""
    LINKS = 4
    """A menu, a table of contents, related pages: left out where it is mostly links."""
    LIST = 5
    """A list or table without a telling name: left out where it is nothing but links, outside the content."""
    PERMALINK = 6
    """The sign after a heading that links to the heading itself."""
    OUTSIDE = 7
    """Left out unless the page's content surrounds it: <footer>, <aside>."""
    SITE_HEADER = 8
    """Left out where it is outside the content and has no heading of first rank."""


class Tag(NamedTuple):
    """What is known of a tag."""

    name: str
    kind: Kind
    gap: int
    """Line ends that separate the element from its neighbours: 0 (inline), 1 or 2."""
    region: Region
    void: bool
    number: int | None = None
    """The value of a list item, the start of a list."""
    decides: bool = True
    """Whether it is more than a void or inline tag without any effect."""
    wraps_list: bool = False
    """Whether its class says that it holds a list, as DocBook's "itemizedlist"."""


_PARAGRAPHS = names_of(
    "p h1 h2 h3 h4 h5 h6 blockquote figure table article section main hgroup fieldset details"
)
_BLOCKS = names_of(
    "address aside body center dialog div figcaption footer form header html legend menu nav optgroup "
    "option search summary caption tbody thead tfoot frameset multicol"
)
_KINDS = {
    **dict.fromkeys(_PARAGRAPHS | _BLOCKS, Kind.BLOCK),
    **dict.fromkeys(("main", "article"), Kind.MAIN),
    **dict.fromkeys(("ul", "ol", "dir", "menu"), Kind.LIST),
    **dict.fromkeys(("td", "th"), Kind.CELL),
    **dict.fromkeys(("pre", "listing"), Kind.PREFORMATTED),
    **{"br": Kind.BREAK, "hr": Kind.RULE, "tr": Kind.ROW, "li": Kind.ITEM, "dt": Kind.TERM},
    **{"dd": Kind.DEFINITION, "dl": Kind.BLOCK, "a": Kind.LINK},
}
_GAPS = {
    **dict.fromkeys(_BLOCKS | {"li", "tr", "dt", "dd", "dir"}, 1),
    **dict.fromkeys(_PARAGRAPHS | {"ul", "ol", "dl", "pre", "listing", "hr"}, 2),
}
_INVISIBLE = names_of(
    "head template title svg canvas audio video object applet textarea select datalist button noscript "
    "annotation annotation-xml"
)
_NAVIGATION_ROLES = names_of("navigation menu menubar toolbar banner contentinfo search dialog alertdialog")
# Elements whose class or id may say that they are navigation. Words within a text, <code class="email">, are
# content whatever their class is.
_CONTAINERS = names_of(
    "div section nav aside header footer ul ol dl table tbody tr td th form p menu details dir center"
)
# A section's id is made from its heading ("Search", "Navigation") and says nothing of its role.
_SECTION = re.compile(r"^(?:section|chapter|(?:ref)?sect\d?|sect-.*|appendix|topic)$")
_NAVIGATION = re.compile(
    r"""^(?:
      nav-?(?:header|footer|bar|igation|box|menu|list|links?|container|wrapper|panel)s? | docnav
    | (?:main|top|site|page|primary|secondary|global|left|right|bottom|mobile|wy|posts?|sub|foot|head|doc)
      -?(?:nav(?:bar|igation)?|menu)(?:-(?:side|top|links|container|wrapper))?
    | bread-?crumbs? | (?:wy-)?bread-?crumbs?-?(?:list|nav|trail|container|wrapper)? | wy-breadcrumbs
    | sphinxsidebar(?:wrapper)? | (?:left|right|site|page|global|nav)-?side-?bar
    | side-?bar-?(?:left|right|container|wrapper|nav|primary|secondary|drawer|toc)
    | pagination | page-?(?:links|numbers|navigation) | prev-?next | next-?prev | rst-footer-buttons
    | wy-side-nav-search | rst-versions | (?:site|page|global|main|print)-?footer
    | skip-?(?:link|nav|to|to-?content|to-?main-?content|links) | back-?to-?top
    | jump-to-nav | mw-(?:jump-link|editsection|navigation|panel|head|footer)
    | cookie-?(?:banner|bar|notice|consent|policy|law-?info) | consent-?(?:banner|bar)
    | newsletter(?:-?(?:signup|form|box))? | sharedaddy | addtoany
    | comments | comment-?(?:list|form|respond|area|section)s? | comments-area | disqus-thread | respond
    | linenos | lineno | line-?numbers?(?:-rows)? | rouge-gutter | linenodiv
    )$""",
    re.VERBOSE,
)
# What may also be in a line or a cell.
_IN_LINE = re.compile(r"^(?:linenos?|line-?numbers?(?:-rows)?|rouge-gutter|mw-editsection)$")
_PERHAPS = re.compile(
    r"""^(?:
      gutter | search | (?:log-?in|sign-?(?:in|up)|search)-?(?:form|box|bar|widget|area)
    | footer
    | (?:social|share)(?:-?(?:media|links?|icons?|buttons?|bar|box))? | subscribe-?(?:form|box|widget)
    | ads? | ad-?(?:vert|vertisement|container|wrapper|slot|banner|unit)s? | advert | banner | sponsored
    | promo
    | modal | pop-?up | light-?box | scroll-?(?:up|top)
    )$""",
    re.VERBOSE,
)
_LINKS = re.compile(
    r"""^(?:
      side-?bar | nav | menu(?:-?(?:bar|container|wrapper|list|item))? | drop-?down(?:-menu)? | pager
    | (?:site|global|top|main)-?header | catlinks | noprint
    | toc | toc-?(?:tree|list|container|wrapper|box|sidebar|drawer) | toctree-wrapper
    | table-?of-?contents? | contents | local-?toc | global-?toc
    | list-?of-?(?:figures|tables|examples) | lot | lof
    | related(?:-?(?:links|articles|posts|pages|topics|content|stories|bar|guides))? | read-?next | see-?also
    | recommended | popular(?:-posts)? | trending | link-?(?:list|box|bar|section)s?
    | quick-?links | tags?-?links
    )$""",
    re.VERBOSE,
)
_PERMALINK = re.compile(
    r"^(?:header-?link|heading-?(?:link|anchor)|perma-?link|header-?anchor|anchor-?(?:link|js-link)?|hash-?link|"
    r"self-?link|anchorjs-link|direct-link|section-?link|toc-?backref-?link)$"
)
_HIDDEN = re.compile(
    r"^(?:(?:is-?|visually-?|element-)?hidden|display-?none|d-none|invisible|sr-only|screen-reader-text|"
    r"nocontent)$"
)
_HIDDEN_STYLE = re.compile(r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)
_SELF = frozenset("¶#🔗⚓")
_TO_ITSELF = re.compile(r"(?:perma(?:nent )?)?-?\s?link\b|anchor\b|direct link", re.IGNORECASE)
_TARGET = re.compile(r'(?<= href="[^"])[^"]*')
_LONGEST_CACHED = 240
BLOCK_NAMES = frozenset(_GAPS)


def gap_of(name: str) -> int:
    """Return the line ends that separate an element of this name from its neighbours."""
    return _GAPS.get(name, 0)


def tag_of(tag: str) -> Tag:
    """Return what is known of a start tag, as it stands in the parser's markup."""
    if tag.startswith("a "):
        tag = _TARGET.sub("", tag)  # so that most links are one entry of the cache
    return _cached(tag) if len(tag) <= _LONGEST_CACHED else _tag_of(tag)


def _tag_of(tag: str) -> Tag:
    name, attributes = parse_tag(tag)
    kind = _KINDS.get(name, Kind.INLINE)
    if kind == Kind.LINK and "href" not in attributes:
        kind = Kind.INLINE  # <a id="x">, and in XHTML <a id="x"/>, which browsers never close.
    elif attributes.get("role") in ("main", "article"):
        kind = Kind.MAIN
    region = _region(name, attributes)
    number = attributes.get("value" if name == "li" else "start", "")
    return Tag(
        name,
        kind,
        _GAPS.get(name, 1 if kind == Kind.MAIN else 0),
        region,
        name in VOID,
        int(number) if re.fullmatch(r"-?\d{1,9}", number, re.ASCII) else None,
        bool(kind or region),
        name == "div" and "list" in attributes.get("class", ""),
    )


_cached = lru_cache(maxsize=8192)(_tag_of)


def _region(name: str, attributes: dict[str, str]) -> Region:
    if name in _INVISIBLE or _is_hidden(name, attributes):
        return Region.INVISIBLE
    if name in ("html", "body", "main", "article") or attributes.get("role") in ("main", "article"):
        return Region.CONTENT
    role = attributes.get("role", "").strip().lower()
    if name == "nav" or role in _NAVIGATION_ROLES:
        return Region.NAVIGATION
    classes = attributes.get("class", "").lower().replace("_", "-").split()
    if name == "a":
        return Region.PERMALINK if _is_permalink(classes, attributes) else Region.CONTENT
    if name == "span" and any(map(_IN_LINE.match, classes)):
        return Region.NAVIGATION
    if name in _CONTAINERS and (found := _by_words(name, classes, attributes.get("id", ""))) is not None:
        return found
    match name:
        case "footer" | "aside":
            return Region.OUTSIDE
        case "header":
            return Region.SITE_HEADER
        case "ul" | "ol" | "dl" | "table" | "menu" | "dir":
            return Region.LIST
    return Region.CONTENT


def _is_hidden(name: str, attributes: dict[str, str]) -> bool:
    if not attributes:
        return name == "dialog"
    if attributes.get("hidden", "until-found").lower() != "until-found":
        return True
    if attributes.get("aria-hidden", "").lower() == "true" or (name == "dialog" and "open" not in attributes):
        return True
    if _HIDDEN_STYLE.search(attributes.get("style", "")):
        return True
    return any(map(_HIDDEN.match, attributes.get("class", "").lower().replace("_", "-").split()))


def _by_words(name: str, classes: list[str], identifier: str) -> Region | None:
    words = classes
    if identifier and name != "section" and not any(map(_SECTION.match, classes)):
        words = [*classes, identifier.lower().replace("_", "-")]
    names = _IN_LINE if name in ("td", "th", "tr", "tbody") else _NAVIGATION
    if any(map(names.match, words)):
        return Region.NAVIGATION
    if any(map(_PERHAPS.match, words)):
        return Region.PERHAPS
    return Region.LINKS if any(map(_LINKS.match, words)) else None


def _is_permalink(classes: list[str], attributes: dict[str, str]) -> bool:
    return attributes.get("href", "").startswith("#") or any(map(_PERMALINK.match, classes))


def is_permalink_text(text: str) -> bool:
    """Whether the text of a link to its own place is a sign for "link to here", and no word of the page."""
    return text in _SELF or (len(text) < 40 and _TO_ITSELF.match(text) is not None)
