"""The cleaning of text."""

import pytest
from data_tools.clean import clean, drop_reason
from hypothesis import given
from hypothesis import strategies as st

from data_tools.config import Clean, Filter


@given(st.text(st.characters() | st.sampled_from("\r\n\x85\u2028\ufeff\x00▁e\u0301")))
def test_clean_is_idempotent_and_can_be_written(text: str) -> None:
    once = clean(text, Clean())
    assert clean(once, Clean()) == once
    once.encode()
    assert not set(once) & set("\r\x00\x0b\x85\u2028\ufeff▁")


@pytest.mark.parametrize("fix_encoding", [False, True])
def test_what_carries_meaning_stays(fix_encoding: bool) -> None:
    for text in (
        "“白日依山盡，黃河入海流。”——王之渙《登鸛雀樓》！？；：（）１２３ＡＢＣ\u3000「」",
        "def f(x):\n\treturn  x  # two  blanks\n\n",
        "👩‍👩‍👧 नमस्ते می‌خواهم ﬁ &amp; ‘quoted’",
    ):
        assert clean(text, Clean(fix_encoding=fix_encoding)) == text


def test_what_is_mended() -> None:
    assert clean("\ufeffa\r\nb\rc\u2028d\x00\x1b", Clean()) == "a\nb\nc\nd"
    assert clean("e\u0301", Clean()) == "é"
    assert clean("half \ud800 pair", Clean()) == "half \ufffd pair"
    assert clean("a▁b", Clean()) == "a_b"
    assert clean("cafÃ© â€“ naÃ¯ve", Clean()) == "cafÃ© â€“ naÃ¯ve"
    assert clean("cafÃ© â€“ naÃ¯ve", Clean(fix_encoding=True)) == "café – naïve"


def test_drop_reasons() -> None:
    config = Filter(min_characters=3, max_characters=5)
    reasons = [drop_reason(text, config) for text in ("", " \n\t　", "ab", "abc", "abcde", "abcdef")]
    assert reasons == ["empty", "empty", "too_short", None, None, "too_long"]
