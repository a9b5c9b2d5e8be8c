"""The cleaning of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.document import Document, Drop
from data_tools.steps.clean import clean_text
from data_tools.steps.length import Length


def clean(text: str, fix_encoding: bool = False) -> str:
    return clean_text(text, fix_encoding=fix_encoding)


@given(st.text(st.characters() | st.sampled_from("\r\n\x85\u2028\ufeff\x00▁e\u0301")))
def test_clean_is_idempotent_and_can_be_written(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    once.encode()
    assert not set(once) & set("\r\x00\x0b\x85\u2028\ufeff▁")


@pytest.mark.parametrize("fix_encoding", [False, True])
def test_what_carries_meaning_stays(fix_encoding: bool) -> None:
    for text in (
        "“白日依山盡，黃河入海流。”——王之渙《登鸛雀樓》！？；：（）１２３ＡＢＣ\u3000「」",
        "def f(x):\n\treturn  x  # two  blanks\n\n",
        "👩‍👩‍👧 नमस्ते می‌خواهم ﬁ &amp; ‘quoted’",
    ):
        assert clean(text, fix_encoding) == text


def test_what_is_mended() -> None:
    assert clean("\ufeffa\r\nb\rc\u2028d\x00\x1b") == "a\nb\nc\nd"
    assert clean("page\x0cpage\x0bline\x1eend") == "page\npage\nline\nend"
    assert clean("e\u0301") == "é"
    assert clean("half \ud800 pair") == "half \ufffd pair"
    assert clean("a▁b") == "a_b"
    assert clean("cafÃ© â€“ naÃ¯ve") == "cafÃ© â€“ naÃ¯ve"
    assert clean("cafÃ© â€“ naÃ¯ve", True) == "café – naïve"


def test_drop_reasons() -> None:
    step = Length(min_characters=3, max_characters=5).build()
    ends = [step(Document(text, "s")) for text in ("", " \n\t　", "ab", "abc", "abcde", "abcdef")]
    reasons = [end.reason if isinstance(end, Drop) else None for end in ends]
    assert reasons == ["length.empty", "length.empty", "length.too_short", None, None, "length.too_long"]
