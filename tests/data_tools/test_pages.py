"""The text of pages: what a reader sees of the content is kept, in order, and nothing is added but marks."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resiliparse.parse.html import HTMLTree

from data_tools.document import Document, Drop
from data_tools.pages import Rendered, render
from data_tools.steps.extract import Extract

PAGES = sorted((Path(__file__).parent / "pages").glob("*.html"))
PROSE = "A paragraph of prose says something, and says it at such a length that it must be content. " * 2
INVISIBLE = ("script", "style", "template", "title")
MARKS = re.compile(r"^`{3,}$|^ +(?:•|\d+\.) ", re.MULTILINE)


class Oracle(HTMLParser):
    """The texts within <main> that a reader sees, by the standard library's parser and rules of its own."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, bool]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "img", "input", "meta", "hr"):
            return
        given = dict(attrs)
        words = (given.get("class") or "").split()
        seen = tag not in INVISIBLE and "hidden" not in given and "none" not in (given.get("style") or "")
        self.open.append((tag, seen and "headerlink" not in words and "linenos" not in words))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, "the pages of these tests close what they open"

    def handle_data(self, data: str) -> None:
        if any(tag == "main" for tag, _ in self.open) and all(seen for _, seen in self.open):
            self.texts.append(data)


def visible(html: str) -> str:
    oracle = Oracle()
    oracle.feed(html)
    oracle.close()
    return "".join("".join(oracle.texts).split())


def main_text(html: str) -> Rendered:
    return render(HTMLTree.parse(html), main_content=True)


def without_marks(text: str) -> str:
    return "".join(MARKS.sub("", text).split())


def page(body: str) -> str:
    return f"<html><head><title>T</title></head><body><p>{PROSE}</p>{body}<p>{PROSE}</p></body></html>"


def between(body: str) -> str:
    """The text of a part between two paragraphs of a page without <main>."""
    return main_text(page(body)).text.strip().removeprefix(PROSE.strip()).removesuffix(PROSE.strip()).strip()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_visible_character_of_the_content_is_kept_in_order(path: Path) -> None:
    html = path.read_text(encoding="utf-8")
    found = main_text(html)
    fence = "```\nfence\n```"  # that of the page's own text
    text = found.text.replace(f"````\n{fence}\n````", "fence") if path.stem == "code" else found.text
    assert without_marks(text) == visible(html).replace("```fence```", "fence")
    assert found.lost == 0
    assert found.left_out > 0


INLINE = ("a", "b", "i", "em", "strong", "code", "span", "kbd", "sub", "sup", "q", "mark", "u", "var", "cite")
CLASSES = ("", ' class="nav"', ' class="email"', ' id="search"', ' href="/x"', ' class="date footer"')
TEXTS = st.lists(
    st.sampled_from([*"aあ字를。，”、—…¶é😀7", "ابن", "की", "text ", " of", "\n", "\xa0x", "　全"]),
    max_size=9,
)


@given(TEXTS, st.data())
def test_tags_within_a_line_change_no_text(texts: list[str], data: st.DataObject) -> None:
    wrapped = list[str]()
    for text in texts:
        for _ in range(data.draw(st.integers(0, 3))):
            tag = data.draw(st.sampled_from(INLINE))
            text = f"<{tag}{data.draw(st.sampled_from(CLASSES))}>{text}</{tag}>"
        wrapped.append(text)
    plain = "".join(texts)
    for block in (
        "<p>%s</p>",
        "<ul><li>%s</li></ul>",
        "<table><tr><td>%s</td></tr></table>",
        "<dl><dd>%s</dl>",
    ):
        assert between(block % f"x{''.join(wrapped)}y") == between(block % f"x{plain}y")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<h2>Ingredients</h2><ul><li>200 g flour</li></ul>", "Ingredients\n\n  • 200 g flour"),
        ("<ol start=3><li>a<li>b<ul><li>c</ul></ol>", "3. a\n  4. b\n    • c"),
        ("<dl><dt>-v<dd>Verbose.<dt>-q<dd><p>Quiet.</dl>", "-v\tVerbose.\n-q\tQuiet."),
        ("<table><tr><th>a<th>b<tr><td><p>1</p><td><td>3</table>", "a\tb\n1\t\t3"),
        ("<details><summary>S</summary>more</details>", "S\nmore"),
        ("<figure><img alt=no><figcaption>fig</figcaption></figure>", "fig"),
        ("<pre>\na\n\n\n  b\t c\n</pre>", "```\na\n\n\n  b\t c\n```"),
        ("<pre>apt update</pre>", "apt update"),
        ("<xmp>a <b>\nc</xmp>", "```\na <b>\nc\n```"),
        ("<p>a<br>b<br><br>c", "a\nb\n\nc"),
        ("<div>a<div>b</div>c</div>", "a\nb\nc"),
        ("<form><fieldset><legend>l</legend><label>m</label></fieldset></form>", "l\nm"),
        ('<a id="x"/><p>XHTML <a id="y"/>closes', "XHTML closes"),
        ('<p>a <a href="x"">broken</a> b', "a broken b"),
        ("<p>1 &lt; 2 &amp;amp; &nbsp;3", "1 < 2 &amp; \xa03"),
        (
            "<p>See:</p><ul><li><a href=1>A</a><li><a href=2>B</a><li><a href=3>C</a></ul>",
            "See:\n\n  • A\n  • B\n  • C",
        ),
        (
            '<div class="sidebar"><p>A tip that DocBook sets apart.</p></div>',
            "A tip that DocBook sets apart.",
        ),
        ('<div class="section" id="search"><h2>Search</h2><p>Type.</p></div>', "Search\n\nType."),
    ],
)
def test_blocks_of_the_content_stay(body: str, text: str) -> None:
    assert between(body) == text


LINKS = "<a href=a>Prev</a></td><td><a href=u>Up</a></td><td><a href=n>Next</a>"
NAVIGATION = (
    f'<div class="navheader"><table><tr><th>Chapter 3</th></tr><tr><td>{LINKS}</td></tr></table></div>',
    f'<DIV CLASS="NAVFOOTER"><table><tr><td>{LINKS}</td></tr></table></DIV>',
    f"<table width=100%><tr><td>{LINKS}</td></tr></table>",
    '<div class="related"><h3>Navigation</h3><ul><li><a href=x>index</a><li><a href=y>next</a> |</ul></div>',
    '<div class="sphinxsidebar"><h3>Contents</h3><p>Quick search</p><ul><li><a href=q>A</a></ul></div>',
    '<div class="toc"><p>Contents</p><dl><dt><a href=x>One thing</a><dt><a href=y>Another</a></dl></div>',
    '<ul class="docnav"><li class="previous"><a href=x>Prev</a><li>The Book<li><a href=y>Next</a></ul>',
    "<nav><ul><li><a href=x>One</a></ul></nav>",
    "<footer>Imprint</footer>",
    "<div hidden>no</div><p style='display:none'>no</p><p aria-hidden=true>no</p><noscript>no</noscript>",
    "<select><option>no</select><button>no</button><svg><text>no</text></svg><template>no</template>",
)


@pytest.mark.parametrize("body", NAVIGATION)
def test_navigation_and_what_is_not_seen_are_left_out(body: str) -> None:
    assert between(f"<div>{body}</div>") == ""


def test_the_sign_that_links_a_heading_to_itself_is_left_out_and_no_other() -> None:
    heading = "<h2>Title<a class=headerlink href=#t title=Permalink>¶</a></h2><p>The sign <b>¶</b> is old."
    assert between(heading) == "Title\n\nThe sign ¶ is old."


@pytest.mark.parametrize("tag", ["nav", "footer", "aside", "header", "div class=sidebar", "div class=menu"])
def test_a_page_within_an_element_that_is_never_closed_is_content(tag: str) -> None:
    assert main_text(f"<body><{tag}><p>{PROSE}<p>{PROSE}").text == f"{PROSE.strip()}\n\n{PROSE.strip()}"


def extract(html: str) -> Document | Drop:
    return Extract().build()(Document("", "web", content=html.encode()))


def test_how_much_of_a_page_was_kept_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = extract(page("<nav>" + "<a href=x>menu</a> " * 50 + "</nav>"))
    assert isinstance(found, Document)
    assert found.counts == {"extract.kept_50_to_75_percent": 1}

    def losing(*_: object, **__: object) -> Rendered:
        return Rendered("99 of 100", visible=100, left_out=0, lost=1)

    monkeypatch.setattr("data_tools.steps.extract.render", losing)
    found = extract(page(""))
    assert isinstance(found, Document)
    assert found.counts == {"extract.kept_75_to_100_percent": 1, "extract.damaged": 1}
