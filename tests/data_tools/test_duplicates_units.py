"""Units: words and single characters, folded; the same whatever stands around them."""

import gzip
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.duplicates import units as units_module
from data_tools.duplicates.units import Splitter, Unit

CORPUS = Path(units_module.__file__).parents[1] / "corpus"


@cache
def splitter(unit: Unit = "words", numbers: str = "same") -> Splitter:
    return Splitter(unit, numbers)  # type: ignore[arg-type]


def split(text: str, **settings: str) -> list[str]:
    units = splitter(**settings)([text])  # type: ignore[arg-type]
    return [text[start:end] for start, end in zip(units.start, units.end, strict=True)]


def hashes(text: str, **settings: str) -> list[int]:
    return splitter(**settings)([text]).hash.tolist()  # type: ignore[arg-type, no-any-return]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, World!", "hello world"),
        ("STRASSE", "straße"),
        ("éclair café", "e\u0301clair CAFE"),
        ("ﬁne ﬂow", "fine flow"),
        ("ＡＢＣ１２３", "abc123"),
        ("co\u00adoperate", "cooperate"),
        ("Ёлка", "елка"),
        ("世界，你好。", "世界 你好"),
        ("が", "か\u3099"),
        ("the\u200bre", "there"),
        ("\ufeffHello", "hello"),
        ("a \u200b b", "a b"),
        ("كِتَاب", "كتاب"),
        ("“quoted” — text…", '"quoted" - text...'),
        ("on 12 May 2024", "on 31 May 1999"),
        ("٣٤ and ३४", "56 and 78"),
    ],
)
def test_what_differs_in_form_alone_is_the_same(one: str, other: str) -> None:
    assert hashes(one) == hashes(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ab", "ba"),
        ("abc", "ab c"),
        ("世界", "界世"),
        ("a1", "1a"),
        ("100", "10"),
        ("语", "語"),
        ("한국", "한구"),
    ],
)
def test_what_differs_is_not_the_same(one: str, other: str) -> None:
    assert hashes(one) != hashes(other)


def test_digits_count_where_they_are_asked_to() -> None:
    assert hashes("page 12", numbers="distinct") != hashes("page 13", numbers="distinct")
    assert hashes("１２", numbers="distinct") == hashes("12", numbers="distinct")


def test_units_are_words_or_single_characters_by_script() -> None:
    assert split("Don't stop; it's 3.5 km") == ["Don", "t", "stop", "it", "s", "3", "5", "km"]
    assert split("我用Python3写代码。") == ["我", "用", "Python3", "写", "代", "码"]
    assert split("カタカナとひらがな") == list("カタカナとひらがな")
    assert split("한국어 문장") == ["한국어", "문장"]
    assert split("ภาษาไทย") == list("ภาษาไทย")
    assert split("two words", unit="characters") == list("twowords")
    assert split("𠀀𪜶 and 🎉 \ue000 \U000e0041") == ["𠀀", "𪜶", "and"]
    assert split("") == split(" \n\t。，!?") == []


def test_english_words_are_those_of_a_regular_expression() -> None:
    with gzip.open(CORPUS / "drama.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(next(file))["text"] for _ in range(40)]
    units = splitter(numbers="distinct")(texts)
    folded: dict[int, str] = {}
    for number, text in enumerate(texts):
        here = slice(units.first[number], units.first[number + 1])
        words = [text[s:e] for s, e in zip(units.start[here], units.end[here], strict=True)]
        assert words == re.findall(r"[^\W_]+", text)
        for word, value in zip(words, units.hash[here].tolist(), strict=True):
            assert folded.setdefault(value, word.lower()) == word.lower()
    assert len(set(folded.values())) == len(folded)


@given(
    st.lists(
        st.text(st.sampled_from("aAbé1٣ 。\n世界か\u3099\u0301\u00ad한ﬁ🎉\ud800"), max_size=30), max_size=6
    )
)
def test_a_text_is_cut_the_same_in_any_company(texts: list[str]) -> None:
    together = splitter()(texts)
    for number, text in enumerate(texts):
        alone = splitter()([text])
        here = slice(together.first[number], together.first[number + 1])
        assert np.array_equal(together.hash[here], alone.hash)
        assert np.array_equal(together.start[here], alone.start)
        assert np.array_equal(together.end[here], alone.end)


def test_long_texts_are_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "some words, 一些汉字 and more " * 40
    whole = splitter()([text, text[1:]])
    monkeypatch.setattr(units_module, "_BLOCK", 64)
    monkeypatch.setattr(units_module, "_CUT", 32)
    pieces = splitter()([text, text[1:]])
    for name in ("hash", "start", "end", "first"):
        assert np.array_equal(getattr(pieces, name), getattr(whole, name)), name
