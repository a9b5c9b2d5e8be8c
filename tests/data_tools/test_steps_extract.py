"""The text of pages: main text, charsets, pages that are none."""

from typing import Literal

import pytest

from data_tools.document import Document, Drop
from data_tools.steps.extract import Extract, decode_page
from megatrain.errors import UserError
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE

KOREAN = (
    "곶 끝에 있는 등대는 십일 년 동안 꺼져 있었지만, 마을 의회는 다시 불을 켜기로 결정했다. "
    "누가 그 제안을 했는지 아무도 몰랐으나 모두가 비용에 대해 한마디씩 했다."
)
Method = Literal["resiliparse", "trafilatura", "all_text"]


def page(prose: str, charset: str = "") -> str:
    """A page with a menu and a footer around some prose."""
    meta = f'<meta charset="{charset}">' if charset else ""
    paragraphs = "".join(f"<p>{paragraph}</p>" for paragraph in prose.strip().split("\n\n"))
    return (
        f"<html><head>{meta}<title>Title</title><style>p {{}}</style><script>var menu = 1;</script></head>"
        "<body>"
        "<nav><ul><li><a href='/'>MenuHome</a></li><li><a href='/b'>MenuNews</a></li></ul></nav>"
        f"<article><h1>Heading</h1>{paragraphs}</article>"
        "<footer><p>FooterNotice <a href='/c'>Imprint</a></p></footer></body></html>"
    )


def extract(content: bytes, method: Method = "resiliparse", **metadata: str) -> Document | Drop:
    return Extract(method=method).build()(Document("", "web", dict(metadata), content=content))


@pytest.mark.parametrize("method", ["resiliparse", "trafilatura"])
@pytest.mark.parametrize("prose", [ENGLISH_PROSE, CHINESE_PROSE])
def test_main_text_without_menu_and_footer(method: Method, prose: str) -> None:
    found = extract(page(prose).encode(), method)
    assert isinstance(found, Document)
    assert found.content is None
    for paragraph in prose.strip().split("\n\n"):
        assert paragraph in found.text
    for other in ("MenuHome", "FooterNotice", "var menu", "<p>"):
        assert other not in found.text


def test_all_text_keeps_the_menu_but_no_program() -> None:
    found = extract(page(ENGLISH_PROSE).encode(), "all_text")
    assert isinstance(found, Document)
    assert "MenuHome" in found.text
    assert "FooterNotice" in found.text
    assert "var menu" not in found.text


def test_plain_text_goes_on_as_it_is() -> None:
    found = Extract().build()(Document("a <b> c", "books"))
    assert isinstance(found, Document)
    assert found.text == "a <b> c"


CHARSETS = {
    "utf-8": ENGLISH_PROSE,
    "windows-1252": "Café – “naïve” façade, señor. " * 9,
    "gb2312": "这是一个中文网页的测试，用来检验汉字编码。" * 9,
    "gb18030": CHINESE_PROSE,
    "big5": CLASSICAL_PROSE,
    "shift_jis": "日本語の文章です。これは文字コードの試験です。" * 9,
    "euc-kr": KOREAN,
    "utf-16": CHINESE_PROSE,
    "iso-2022-jp": "日本語の文章です。これは文字コードの試験です。" * 9,
}


@pytest.mark.parametrize("charset", CHARSETS)
def test_every_charset_is_found_by_its_name_or_its_bytes(charset: str) -> None:
    html = page(CHARSETS[charset])
    named = page(CHARSETS[charset], charset)
    assert decode_page(html.encode(charset), charset) == html
    assert decode_page(named.encode(charset), None) == named
    assert decode_page(html.encode(charset), None) == html


def test_bytes_that_are_utf8_are_read_so_whatever_the_server_says() -> None:
    content = page(CHINESE_PROSE).encode()
    assert decode_page(content, "iso-8859-1") == content.decode()
    assert decode_page(b"\xef\xbb\xbf" + content, "gb2312") == content.decode()
    assert decode_page(content, "no-such-charset") == content.decode()


def test_broken_bytes_are_replaced_and_counted() -> None:
    content = page(CHINESE_PROSE, "utf-8").encode()
    broken = content.replace("灯塔".encode(), "灯塔".encode()[:-1], 1)
    found = extract(broken)
    assert isinstance(found, Document)
    assert found.counts["extract.invalid_characters"] == 1
    assert "海角尽头的灯\ufffd已经熄灭了" in found.text


@pytest.mark.parametrize("method", ["resiliparse", "trafilatura", "all_text"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html><body><script>x</script></body></html>", "extract.no_text"),
        (b"", "extract.no_text"),
        (b"<div>" * 100_000 + b"text", "extract.too_deep"),
    ],
)
def test_pages_that_give_no_text_are_dropped(method: Method, content: bytes, reason: str) -> None:
    found = extract(content, method)
    assert isinstance(found, Drop)
    assert found.reason == reason


def test_a_page_that_is_too_large_is_not_read() -> None:
    found = Extract(max_bytes=10).build()(Document("", "web", content=b"<p>hello world</p>"))
    assert isinstance(found, Drop)
    assert found.reason == "extract.too_large"


def test_a_parser_that_fails_costs_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RecursionError("too many")

    monkeypatch.setattr("trafilatura.extract", fail)
    found = extract(page(ENGLISH_PROSE).encode(), "trafilatura")
    assert found == Drop("extract.failed", "RecursionError: too many")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(UserError, match=r"extract\.method trafilatura.*pip install .*\[data\]"):
        Extract(method="trafilatura").build()


WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-16", "utf-32")


@pytest.mark.parametrize("charset", WIDE)
@pytest.mark.parametrize(
    "prose", [ENGLISH_PROSE, CHINESE_PROSE, KOREAN, "Маяк не горел.", "كانت المنارة مطفأة."]
)
def test_wide_encodings_are_found_by_their_zero_bytes(charset: str, prose: str) -> None:
    html = page(prose, "utf-16")
    for declared in (None, charset, "utf-16", "utf-8", "gbk"):
        assert decode_page(html.encode(charset), declared) == html


def test_a_page_that_can_be_read_as_ascii_is_not_in_utf_16() -> None:
    for declared in (None, "utf-16", "utf-16be", "utf-32"):
        assert decode_page(page("Caf\xe9 cr\xe8me. ", "utf-16").encode("cp1252"), declared) == page(
            "Caf\xe9 cr\xe8me. ", "utf-16"
        )
        assert decode_page(page(CHINESE_PROSE, "utf-16").encode(), declared) == page(CHINESE_PROSE, "utf-16")


ARABIC = "كانت المنارة في نهاية الرأس مطفأة منذ أحد عشر عاما، لكن مجلس القرية قرر إشعالها من جديد. "
JAPANESE = "日本語の文章です。これは文字コードの試験です。"
LEGACY = {
    "gbk": CHINESE_PROSE,
    "big5": CLASSICAL_PROSE,
    "cp932": JAPANESE + "①㈱",
    "euc_jis_2004": JAPANESE + "①㈱",
    "cp949": KOREAN,
    "cp1256": ARABIC * 3,
}
LABELS = {"euc_jis_2004": "euc-jp", "cp932": "shift_jis", "cp949": "euc-kr", "cp1256": "windows-1256"}


@pytest.mark.parametrize("charset", LEGACY)
def test_a_broken_byte_costs_one_character_and_not_the_page(charset: str) -> None:
    prose = LEGACY[charset]
    label = LABELS.get(charset, charset)
    html = page(prose, label)
    content = html.encode(charset)
    assert decode_page(content, label) == html
    assert decode_page(content, None) == html
    broken = content.replace(b"</h1>", b"\xff</h1>" if charset != "cp1256" else b"</h1>")
    for declared in (label, None):
        assert prose.strip()[-20:] in decode_page(broken, declared)


def test_without_any_name_korean_is_found_by_its_bytes() -> None:
    assert decode_page(page(KOREAN).encode("euc-kr"), None) == page(KOREAN)
