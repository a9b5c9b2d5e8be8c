"""Language identification, offline."""

import re
import socket
import sys
from pathlib import Path

import pytest

from data_tools.document import Document, Drop
from data_tools.steps.language import Language
from megatrain.errors import UserError
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE, reason, run
from tests.data_tools.scripts import PROSE, VOCALISED

FRENCH = (
    "Le phare était éteint depuis onze ans quand le conseil décida de le rallumer, et nul ne sut pourquoi."
)
JAPANESE = "岬の灯台は十一年のあいだ消えたままだったが、町の議会はもう一度灯をともすことに決めた。"
VERSE = (
    "床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。\n國破山河在，城春草木深。\n感時花濺淚，恨別鳥驚心。"
)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH_PROSE, "en"),
        (CHINESE_PROSE, "zh"),
        (CLASSICAL_PROSE, "zh"),
        (VERSE, "zh"),
        (FRENCH, "fr"),
        (JAPANESE, "ja"),
        ("灯台は再び灯をともした。 half \ud800 pair", "ja"),
    ],
)
def test_names_the_language(text: str, language: str) -> None:
    found = run(Language().build(), text)
    assert isinstance(found, Document)
    assert found.metadata["language"] == language
    assert 0.65 <= found.metadata["language_score"] <= 1


def test_drops_other_languages_and_what_is_in_none() -> None:
    step = Language(keep=("en", "zh")).build()
    assert reason(step, ENGLISH_PROSE) is None
    assert reason(step, CHINESE_PROSE) is None
    assert reason(step, FRENCH) == "language.unwanted"
    assert reason(step, JAPANESE) == "language.unwanted"
    numbers = run(Language().build(), "1 2 3 4 5 6")
    assert isinstance(numbers, Drop)
    assert numbers.reason == "language.low_score"
    assert reason(Language(min_score=0.0).build(), "1 2 3 4 5 6") is None


def test_a_language_that_the_model_does_not_know_is_told() -> None:
    """As "cn" it would drop all Chinese."""
    for code, complaint in (
        ("cn", "no language 'cn'"),
        ("EN", "did you mean en?"),
        ("zh-CN", "did you mean zh"),
    ):
        with pytest.raises(UserError, match=re.escape(complaint)):
            Language(keep=("en", code)).build()


def test_only_the_beginning_is_looked_at_when_told() -> None:
    text = FRENCH + "\n" + ENGLISH_PROSE * 3
    for characters, language in ((len(FRENCH), "fr"), (100_000, "en")):
        found = run(Language(max_characters=characters, min_score=0).build(), text)
        assert isinstance(found, Document)
        assert found.metadata["language"] == language


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    assert reason(Language(keep=("en",)).build(), ENGLISH_PROSE) is None
    assert "robust_downloader" not in sys.modules


def test_a_model_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("no model\n")
    for name in ("missing.ftz", "words.txt"):
        with pytest.raises(UserError, match=rf"language\.model: .*{name}"):
            Language(model=str(tmp_path / name)).build()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setitem(sys.modules, "fasttext", None)
        with pytest.raises(UserError, match=r"pip install .*\[data\]"):
            Language().build()
    with monkey.context() as patch:
        patch.setattr("data_tools.steps.language.find_spec", lambda _: None)
        with pytest.raises(UserError, match=r"lid\.176\.ftz"):
            Language().build()


@pytest.mark.parametrize(
    "text", [VERSE, "蜀高祖王建", "盤根植瀛渚，交幹橫倚天。", "銀河南渚帝城隅，帝輦平明出九衢。"]
)
def test_a_text_of_han_characters_alone_is_chinese(text: str) -> None:
    found = run(Language(min_score=0).build(), text)
    assert isinstance(found, Document) and found.metadata["language"] == "zh"


@pytest.mark.parametrize("text", VOCALISED)
def test_vowel_signs_do_not_hide_arabic(text: str) -> None:
    assert reason(Language(keep=("ar",)).build(), text) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("این یک متن فارسی است که برای آزمایش نوشته شده است.", "fa"),
        ("سلام دنیا", "fa"),
        ("یہ اردو زبان کا ایک جملہ ہے۔", "ur"),
        ("ئەمە ڕستەیەکی کوردییە", "ckb"),
        ("我哋今日去咗香港嘅書局", "yue"),
        ("阿拉上海人辰光老早就来", "wuu"),
        ("בְּרֵאשִׁית בָּרָא אֱלֹהִים", "he"),
        ("Ｔｈｅ　ｌｉｇｈｔｈｏｕｓｅ ｗａｓ ｄａｒｋ ａｎｄ ｃｏｌｄ", "en"),
        ("ﻛﺎﻥ ﺍﻟﺮﺟﻞ ﻳﻤﺸﻲ ﻓﻲ ﺍﻟﻄﺮﻳﻖ ﻭﺣﻴﺪﺍ", "ar"),
    ],
)
def test_the_script_decides_only_where_it_can(text: str, language: str) -> None:
    found = run(Language(min_score=0).build(), text)
    assert isinstance(found, Document) and found.metadata["language"] == language


@pytest.mark.parametrize("language", PROSE)
def test_prose_in_many_scripts(language: str) -> None:
    found = run(Language().build(), PROSE[language])
    assert isinstance(found, Document) and found.metadata["language"] == language
