"""Lists of bad words: standing alone in spaced scripts, anywhere in others."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_tools.document import Drop
from data_tools.steps.bad_words import BadWords, pattern_of
from megatrain.errors import UserError
from tests.data_tools.passages import reason, run


def written(path: Path, *words: str) -> str:
    path.write_text("\n".join(words), encoding="utf-8")
    return str(path)


def test_words_of_spaced_scripts_stand_alone(tmp_path: Path) -> None:
    step = BadWords(file=written(tmp_path / "en.txt", "Ass", "brown cow", "s&m", "", "  ")).build()
    for text in ("an ass.", "ASS", "the Brown Cow!", "(s&m)", "说ass的", "ass", "ass and more"):
        assert reason(step, text) == "bad_words.found", text
    for text in ("the class", "asses", "assé", "brown cows", "s m", "ass_1", "", "a brown\ncow"):
        assert reason(step, text) is None, text


def test_words_of_scripts_without_spaces_are_found_anywhere(tmp_path: Path) -> None:
    step = BadWords(file=written(tmp_path / "zh.txt", "六合彩", "代开发票")).build()
    found = run(step, "本公司可代开发票，另有六合彩开奖结果，代开发票。")
    assert found == Drop("bad_words.found", "代开发票")
    assert reason(step, "本公司可以开发票。") is None


def test_a_language_has_its_list_besides_that_of_all(tmp_path: Path) -> None:
    files = {"de": written(tmp_path / "de.txt", "die"), "zh": written(tmp_path / "zh.txt", "彩票")}
    step = BadWords(file=written(tmp_path / "all.txt", "spam"), by_language=files).build()
    assert reason(step, "die Sonne", language="de") == "bad_words.found"
    assert reason(step, "they die", language="en") is None
    assert reason(step, "spam", language="de") == reason(step, "spam") == "bad_words.found"
    assert reason(BadWords(by_language=files).build(), "die", language="en") is None


def test_some_matches_may_be_allowed(tmp_path: Path) -> None:
    step = BadWords(file=written(tmp_path / "en.txt", "damn", "hell"), max_matches=2).build()
    assert reason(step, "damn damn") is None
    assert run(step, "Damn the hell, damn it") == Drop("bad_words.found", "damn, hell")


@given(st.lists(st.text("abc彩票.", min_size=1, max_size=5), max_size=8), st.text("abc彩票. ", max_size=12))
def test_finds_what_a_plain_search_for_each_word_finds(words: list[str], text: str) -> None:
    def stands(word: str) -> bool:
        edges = ("", "") if re.search("[彩票]", word) else ("(?<![abc])", "(?![abc])")
        return re.search(edges[0] + re.escape(word) + edges[1], text) is not None

    assert (pattern_of(words).search(text) is not None) == any(map(stands, words))


def test_bad_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    for file, complaint in (
        (str(tmp_path / "missing.txt"), "missing.txt: cannot be read"),
        (str(tmp_path / "latin1.txt"), "latin1.txt: cannot be read"),
        (written(tmp_path / "empty.txt", "", " "), "empty.txt: holds no words"),
        (written(tmp_path / "prose.txt", "one", "word " * 40), "prose.txt:2: 200 characters"),
    ):
        with pytest.raises(UserError, match=re.escape(complaint)):
            BadWords(file=file).build()
    with pytest.raises(ValidationError, match="file or by_language"):
        BadWords()


def test_case_width_and_composition_do_not_hide_a_word(tmp_path: Path) -> None:
    step = BadWords(file=written(tmp_path / "all.txt", "istanbul", "Straße", "cafe\u0301")).build()
    for text in ("İSTANBUL", "STRASSE", "ｓｔｒａｓｓｅ", "CAF\u00c9", "caf\u00e9 noir"):
        assert reason(step, text) == "bad_words.found", text
    for text in ("istanbullu", "cafe", "strasse2"):
        assert reason(step, text) is None, text
