"""The rules of Gopher: what each drops and why, and what it must not drop in either language."""

import pytest
from pydantic import ValidationError

from data_tools.document import Drop
from data_tools.steps.gopher_quality import GopherQuality
from data_tools.steps.gopher_repetition import GopherRepetition
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE, reason, run
from tests.data_tools.scripts import PROSE as PROSE_OF

PROSE = [ENGLISH_PROSE, CHINESE_PROSE, CLASSICAL_PROSE]
WORDS = "the lamp of a tower that had been dark and cold to all with no hope "
ENGLISH_SHOP = (
    "Buy shoes cheap shoes online shoes sale shoes discount shoes outlet shoes store shoes free shipping "
)
CHINESE_SHOP = (
    "连衣裙女夏 韩版修身 显瘦 短袖恤 女装新款 雪纺衫 半身裙 牛仔裤 小脚裤 高跟鞋 凉鞋 女包 斜挎包 包邮 "
)


@pytest.mark.parametrize("text", PROSE)
def test_prose_stays(text: str) -> None:
    assert reason(GopherQuality().build(), text) is None
    assert reason(GopherRepetition().build(), text) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("too_few_words", "A short note, no more."),
        ("too_few_words", "海角尽头的灯塔已经熄灭了十一年。"),
        ("too_few_words", ""),
        ("too_few_words", "| " * 500),
        ("mean_word_length", "a of to be in " * 20),
        ("mean_word_length", "the institutionalization that " + "internationalization " * 60),
        ("symbol_ratio", "#news " * 20 + WORDS * 4),
        ("symbol_ratio", (WORDS + "... " * 4) * 4),
        ("symbol_ratio", "灯塔又亮了…" * 20),
        ("bullet_lines", f"- {WORDS}\n" * 10),
        ("bullet_lines", "● 这座灯塔已经熄灭了十一年\n" * 10),
        ("ellipsis_lines", f"{WORDS}...\n" * 3 + f"{WORDS}.\n" * 5),
        ("words_with_letter", WORDS * 3 + "1914 1918 1939 | 2000 " * 4),
        ("stop_words", ENGLISH_SHOP * 5),
        ("stop_words", CHINESE_SHOP * 2),
    ],
)
def test_quality_names_the_rule(rule: str, text: str) -> None:
    found = run(GopherQuality().build(), text)
    assert isinstance(found, Drop)
    assert found.reason == f"gopher_quality.{rule}"
    assert found.detail


def test_thresholds_are_the_published_ones_and_the_edge_stays() -> None:
    for words, dropped in ((49, True), (50, False)):
        text = " ".join((WORDS * 4).split()[:words])
        assert (reason(GopherQuality().build(), text) == "gopher_quality.too_few_words") is dropped
    long = WORDS * 6_251  # 100,016 words
    assert reason(GopherQuality().build(), long) == "gopher_quality.too_many_words"
    assert reason(GopherQuality(max_words=None).build(), long) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_words", "The lamp of the tower is dark and cold."),
        ("min_mean_word_length", "a of to be in " * 20),
        ("max_mean_word_length", "the institutionalization that " + "internationalization " * 60),
        ("max_symbol_ratio", "#news " * 20 + WORDS * 4),
        ("max_bullet_lines", f"- {WORDS}\n" * 10),
        ("max_ellipsis_lines", f"{WORDS}...\n" * 3 + f"{WORDS}.\n" * 5),
        ("min_words_with_letter", WORDS * 3 + "1914 1918 1939 | 2000 " * 4),
        ("min_stop_words", ENGLISH_SHOP * 5),
    ],
)
def test_null_leaves_a_rule_of_quality_out(rule: str, text: str) -> None:
    assert reason(GopherQuality().build(), text) is not None
    assert reason(GopherQuality.model_validate({rule: None}).build(), text) is None


def test_stop_words_are_those_of_the_language() -> None:
    german = "Der Leuchtturm am Ende der Landzunge war seit elf Jahren dunkel und niemand wusste warum. " * 4
    assert reason(GopherQuality().build(), german) == "gopher_quality.stop_words"
    assert reason(GopherQuality().build(), german, language="de") is None
    ours = GopherQuality(stop_words={"de": ("und", "der", "am")})
    assert reason(ours.build(), german, language="de") is None
    assert reason(ours.build(), ENGLISH_PROSE, language="de") == "gopher_quality.stop_words"
    with pytest.raises(ValidationError, match="我们"):
        GopherQuality(stop_words={"zh": ("我们",)})


def test_chinese_has_no_word_length() -> None:
    """Letters of scripts without spaces are not words of one character that are too short."""
    text = CHINESE_PROSE.replace("灯塔", " Leuchtturm ")
    assert reason(GopherQuality(min_mean_word_length=5).build(), text) is None


SENTENCES = ENGLISH_PROSE.replace("\n", " ").split(". ")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("duplicate_paragraphs", "\n\n".join(["A paragraph.", "Another one.", "A third."] * 2)),
        ("duplicate_paragraphs", "\n\n".join(["一个段落。", "另一个段落。", "第三个。"] * 2)),
        ("duplicate_paragraph_characters", "\n\n".join([*SENTENCES[:6], SENTENCES[0], SENTENCES[1]])),
        ("duplicate_lines", "\n".join(["one", "two", "three", "four", "five"] * 2)),
        ("duplicate_line_characters", "\n".join([*SENTENCES[:6], SENTENCES[0], SENTENCES[1]])),
        ("top_2_gram", "buy now at once, buy now my dear, buy now from us, buy now or never"),
        ("top_2_gram", "特价优惠，特价优惠，马上买，特价优惠，快来吧，特价优惠，特价优惠"),
        (
            "duplicate_5_gram",
            " and then he said again that ".join([ENGLISH_PROSE[:290]] * 2),
        ),
        ("duplicate_5_gram", "后来他又说了一遍，".join([CHINESE_PROSE[:80]] * 2)),
    ],
)
def test_repetition_names_the_rule(rule: str, text: str) -> None:
    found = run(GopherRepetition().build(), text)
    assert isinstance(found, Drop)
    assert found.reason == f"gopher_repetition.{rule}"


def test_null_and_no_size_leave_a_rule_of_repetition_out() -> None:
    text = "\n\n".join(["A paragraph.", "Another one.", "A third."] * 3)
    settings: dict[str, object] = {}
    for rule, key in (
        ("duplicate_paragraphs", "max_duplicate_paragraphs"),
        ("duplicate_paragraph_characters", "max_duplicate_paragraph_characters"),
        ("duplicate_lines", "max_duplicate_lines"),
        ("duplicate_line_characters", "max_duplicate_line_characters"),
        ("top_2_gram", "max_top_ngram"),
        ("duplicate_5_gram", "max_duplicate_ngrams"),
    ):
        step = GopherRepetition.model_validate(settings).build()
        assert reason(step, text) == f"gopher_repetition.{rule}"
        settings[key] = {} if "ngram" in key else None
    assert reason(GopherRepetition.model_validate(settings).build(), text) is None


def test_an_ngram_that_occurs_once_repeats_nothing() -> None:
    assert reason(GopherRepetition().build(), "Four words stand here.") is None
    assert reason(GopherRepetition().build(), "床前明月光，疑是地上霜。") is None
    assert reason(GopherRepetition().build(), "") is None


def test_a_chinese_ngram_is_as_long_as_its_words() -> None:
    """A name of seven letters, four words, comes back in Chinese as one of four words does in English."""
    text = CHINESE_PROSE.replace("，", "中华人民共和国，", 8)
    few = {5: 0.08}
    assert reason(GopherRepetition(max_duplicate_ngrams=few).build(), text) is None
    by_letters = GopherRepetition(max_duplicate_ngrams=few, characters_per_word=1)
    assert reason(by_letters.build(), text) == "gopher_repetition.duplicate_5_gram"


@pytest.mark.parametrize("language", PROSE_OF)
def test_prose_of_any_script_stays_with_and_without_a_named_language(language: str) -> None:
    """Syllables and marks are no letters, and English stop words are asked for in Latin script alone."""
    text = PROSE_OF[language]
    for rules in (GopherQuality(min_words=20), GopherRepetition()):
        found = run(rules.build(), text, language=language)
        assert not isinstance(found, Drop), found
        found = run(rules.build(), text)
        # Without the step `language` Vietnamese looks like English.
        assert not isinstance(found, Drop) or language == "vi", found


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("mean_word_length", "그 저 이 것 수 "),
        ("mean_word_length", "ب ت ث من "),
        ("symbol_ratio", "등대는 꺼졌다。。。 "),
        ("symbol_ratio", "灯塔又亮了⋯ "),
        ("symbol_ratio", "＃등대 "),
        ("bullet_lines", "ㅇ 등대는 십일 년 동안 꺼져 있었다\n"),
        ("bullet_lines", "・灯台は十一年のあいだ消えたままだった\n"),
        ("ellipsis_lines", "등대는 십일 년 동안 꺼져 있었던 것 같았는데 다시 불이 켜졌다고⋯\n"),
    ],
)
def test_the_rules_work_in_other_scripts(rule: str, text: str) -> None:
    assert reason(GopherQuality().build(), text * 60) == f"gopher_quality.{rule}"


def test_a_thai_ngram_is_as_long_as_its_words() -> None:
    text = PROSE_OF["th"].replace(" ", " ประเทศไทยนั้น", 6)
    few = {4: 0.05}
    assert reason(GopherRepetition(max_duplicate_ngrams=few).build(), text) is None
    by_half = GopherRepetition(max_duplicate_ngrams=few, characters_per_word=1)
    assert reason(by_half.build(), text) == "gopher_repetition.duplicate_4_gram"
