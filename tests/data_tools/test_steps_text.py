"""The steps clean, length and boilerplate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_tools.document import Document, Drop
from data_tools.steps.boilerplate import Boilerplate
from data_tools.steps.clean import Clean, clean_text
from data_tools.steps.length import Length
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE, reason, run

PAGE = """\
Skip to content
Home | News | Sport | Weather
The ferry to the islands runs again from Monday, the harbour master said.
This site uses cookies to give you the best experience.
Please enable JavaScript to view the comments.
It had been out of service since the storm in January.
News | Sport | Weather | Travel | Shop | Earth
© 2024 The Daily Post. All rights reserved.
Back to top
"""

CHINESE_PAGE = """\
网站首页 > 新闻中心 > 社会新闻
登录
开往群岛的渡轮从星期一起恢复航行，港务局局长说。
本网站使用Cookie，以便为您提供更好的服务。
自一月的风暴以来，渡轮一直停航。
下一篇
版权所有 © 2024 每日邮报 京ICP备12345678号
"""


@given(st.text())
def test_clean_is_what_version_1_did(text: str) -> None:
    found = Clean().build()(Document(text, "s"))
    assert isinstance(found, Document)
    assert found.text == clean_text(text, fix_encoding=False)


def test_clean_mends_mojibake_when_told() -> None:
    mended = run(Clean(fix_encoding=True).build(), "cafÃ© â€“ naÃ¯ve")
    assert isinstance(mended, Document)
    assert mended.text == "café – naïve"


def test_length_names_the_rule() -> None:
    step = Length(min_characters=3, max_characters=5).build()
    reasons = [reason(step, text) for text in ("", " \n\u3000", "ab", "abc", "abcde", "abcdef")]
    assert reasons == [
        *("length.empty", "length.empty", "length.too_short"),
        *(None, None, "length.too_long"),
    ]
    with pytest.raises(ValidationError, match="min_characters"):
        Length(min_characters=9, max_characters=8)


def test_boilerplate_leaves_the_text_of_a_page() -> None:
    found = run(Boilerplate().build(), PAGE)
    assert isinstance(found, Document)
    assert found.text == (
        "The ferry to the islands runs again from Monday, the harbour master said.\n"
        "It had been out of service since the storm in January."
    )
    assert found.counts == {
        "boilerplate.label": 2,
        "boilerplate.navigation": 2,
        "boilerplate.notice": 3,
    }


def test_boilerplate_leaves_the_text_of_a_chinese_page() -> None:
    found = run(Boilerplate().build(), CHINESE_PAGE)
    assert isinstance(found, Document)
    assert found.text == (
        "开往群岛的渡轮从星期一起恢复航行，港务局局长说。\n自一月的风暴以来，渡轮一直停航。"
    )


@pytest.mark.parametrize("text", [ENGLISH_PROSE, CHINESE_PROSE, CLASSICAL_PROSE])
def test_boilerplate_does_not_touch_prose(text: str) -> None:
    found = run(Boilerplate(repeated_lines="remove").build(), text)
    assert isinstance(found, Document)
    assert found.text == text
    assert not found.counts


@pytest.mark.parametrize(
    "line",
    [
        "| Name | Age | City | Street | Zip |",
        "cat words | sort | uniq -c | sort -rn | head",
        "He wrote a whole book about the use of cookies " + "and of much else " * 10,
    ],
)
def test_what_only_looks_like_boilerplate_stays(line: str) -> None:
    found = run(Boilerplate().build(), line)
    assert isinstance(found, Document)
    assert found.text == line


def test_repeated_lines_go_when_told_and_short_ones_stay() -> None:
    text = "The same long line.\n}\nThe same long line.\n}\nAnother line."
    kept = run(Boilerplate().build(), text)
    assert isinstance(kept, Document)
    assert kept.text == text
    mended = run(Boilerplate(repeated_lines="remove").build(), text)
    assert isinstance(mended, Document)
    assert mended.text == "The same long line.\n}\n}\nAnother line."
    assert mended.counts == {"boilerplate.repeated_line": 1}


def test_a_page_of_nothing_else_is_dropped() -> None:
    found = run(Boilerplate().build(), "Read more\nThis site uses cookies.")
    assert isinstance(found, Drop)
    assert found.reason == "boilerplate.nothing_left"
    everything = Boilerplate(notices=(), labels=(), navigation="keep").build()
    assert reason(everything, PAGE) is None
