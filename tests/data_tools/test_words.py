"""Words: what one is in scripts with and without spaces, and the hashes that stand for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.words import hash_words, split_words

TEXTS = st.text(st.sampled_from("ab1_ \n\t.,!-'“”|，。世界カなกक्ि한é\u3000\u0301\ud800") | st.characters())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Don't stop: the well-known 3.14 (really).",
            ["Don't", "stop", "the", "well-known", "3.14", "really"],
        ),
        ("a | b -> c, 'd'", ["a", "|", "b", "->", "c", "d"]),
        ("世界，你好。", ["世", "界", "你", "好"]),
        ("使用Python 3编程（test）！", ["使", "用", "Python", "3", "编", "程", "test"]),
        ("カメラと写真", ["カ", "メ", "ラ", "と", "写", "真"]),
        ("안녕하세요 세계.", ["안녕하세요", "세계"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        (" \n\t\u3000 ", []),
        ("", []),
    ],
)
def test_words_of_scripts_with_and_without_spaces(text: str, words: list[str]) -> None:
    assert split_words(text).strings() == words


def test_signs_alone_are_words_that_are_not_spoken() -> None:
    words = split_words("tea | 42 茶 …")
    assert words.strings() == ["tea", "|", "42", "茶", "…"]
    assert words.spoken.tolist() == [True, False, True, True, False]
    assert words.with_letter.tolist() == [True, False, False, True, False]
    assert words.unspaced.tolist() == [False, False, False, True, False]


def test_reading_as_chinese_needs_most_words_to_be_letters_without_spaces() -> None:
    assert split_words("这是一个关于 Python 的测试").mostly_unspaced
    assert not split_words("The word 道 has no good translation").mostly_unspaced
    assert split_words("表 | 一 | 二 | 三 |").mostly_unspaced
    assert not split_words("").mostly_unspaced


@given(TEXTS)
def test_words_lie_in_order_without_spaces_in_them(text: str) -> None:
    words = split_words(text)
    strings = words.strings()
    assert (words.ends > words.starts).all()
    assert (words.starts[1:] >= words.ends[:-1]).all()
    assert not any(character.isspace() for word in strings for character in word)
    # Every letter is in a word.
    letters = sum(character.isalpha() for character in text)
    assert sum(character.isalpha() for word in strings for character in word) == letters


@given(TEXTS)
def test_equal_words_and_only_those_have_equal_hashes(text: str) -> None:
    words = split_words(text)
    pairs = set(zip(words.strings(), words.hashes.tolist(), strict=True))
    assert len(pairs) == len({word for word, _ in pairs}) == len({value for _, value in pairs})


def test_a_hash_does_not_depend_on_where_the_word_stands_and_never_changes() -> None:
    alone = hash_words(["the", "之"])
    assert set(alone.tolist()) <= set(split_words("Among these, the one 之乎者也 that ...").hashes.tolist())
    # Stored in models of n-grams: a change of the hash needs a new version of their format.
    assert alone.tolist() == [1957085124820477167, 5976637428622712227]
