"""The rules of C4 and of FineWeb: what each removes or drops and why, in both languages."""

import pytest

from data_tools.document import Document, Drop
from data_tools.sentences import count_sentences, ends_sentence
from data_tools.steps.c4_quality import C4Quality
from data_tools.steps.fineweb_quality import FinewebQuality
from tests.data_tools.passages import CHINESE_PROSE, CLASSICAL_PROSE, ENGLISH_PROSE, reason, run

PROSE = [ENGLISH_PROSE, CHINESE_PROSE, CLASSICAL_PROSE]


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        *(
            ("It ended.", True),
            ("Did it?", True),
            ("It did!", True),
            ("and so on...", True),
            ("a heading", False),
        ),
        *(
            ("完了。", True),
            ("完了吗？", True),
            ("完了！", True),
            ("他说：“完了。”", True),
            ("（完了。）", True),
        ),
        *(
            ("「完了！」", True),
            ("可是……", True),
            ("一个标题", False),
            ("（注）", False),
            ("查看更多…", False),
        ),
        *(("समाप्त।", True), ("انتهى؟", True), ("", False)),
        *(("انتهى۔", True), ("རྫོགས།", True), ("дууссан᠃", True), ("« Fini. »", True), ("«Конец.»", True)),
    ],
)
def test_where_a_sentence_ends(line: str, ends: bool) -> None:
    assert ends_sentence(line) is ends


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three? Four", 3),
        ('He said "yes." She said no.', 2),
        ("Version 3.14 of example.com", 1),
        ("一。二！三？四", 3),
        ("他说：“完了。”她说没有。", 2),
        ("no mark", 1),
    ],
)
def test_how_many_sentences(line: str, sentences: int) -> None:
    assert count_sentences(line) == sentences


@pytest.mark.parametrize("text", PROSE)
@pytest.mark.parametrize("require_sentence_end", [False, True])
def test_c4_does_not_touch_prose(text: str, require_sentence_end: bool) -> None:
    found = run(C4Quality(require_sentence_end=require_sentence_end).build(), text)
    assert isinstance(found, Document)
    assert found.text == text


def lines_left(extra: str, prose: str = ENGLISH_PROSE, **settings: object) -> tuple[bool, dict[str, int]]:
    """Whether a line that is added to some prose is still there after C4, and what was counted."""
    found = run(C4Quality.model_validate(settings).build(), f"{prose.strip()}\n{extra}")
    assert isinstance(found, Document)
    assert found.text.startswith(prose.strip())
    return extra in found.text, dict(found.counts)


@pytest.mark.parametrize(
    ("rule", "line", "off"),
    [
        ("too_few_words", "Log in", {"min_words_in_line": None}),
        ("too_few_words", "联系我们", {"min_words_in_line": None}),
        ("javascript", "You must turn on JavaScript to see this.", {"remove_javascript_lines": False}),
        ("policy", "By going on you accept our Privacy Policy.", {"policy_phrases": ()}),
        ("policy", "继续浏览即表示您同意我们的隐私政策。", {"policy_phrases": ()}),
        ("long_word", "a long one " + "x" * 1001, {"max_word_characters": None}),
    ],
)
@pytest.mark.parametrize("prose", [ENGLISH_PROSE, CHINESE_PROSE])
def test_c4_removes_a_line_by_its_rule(rule: str, line: str, off: dict[str, object], prose: str) -> None:
    assert lines_left(line, prose) == (False, {f"c4_quality.{rule}": 1})
    assert lines_left(line, prose, **off) == (True, {})


def test_c4_keeps_lines_of_chinese_verse_and_long_paragraphs_without_spaces() -> None:
    assert lines_left("床前明月光", CHINESE_PROSE) == (True, {})
    assert lines_left("这座灯塔" * 300 + "。", CHINESE_PROSE) == (True, {})


def test_c4_by_option_wants_the_end_of_a_sentence() -> None:
    counts = {"c4_quality.no_sentence_end": 1}
    for line in ("A heading of the page", "这是一个很长的标题", "and the story goes on ...", "查看更多内容…"):
        assert lines_left(line, require_sentence_end=True) == (False, counts)
    for line in ('"It is a quotation"', "他说：“完了。”", "可是他想……"):
        assert lines_left(line, require_sentence_end=True, min_unspaced_letters_in_line=3) == (True, {})


def test_c4_removes_citations() -> None:
    text = ENGLISH_PROSE.replace("harbour.", "harbour.[12][citation needed]")
    found = run(C4Quality().build(), text)
    assert isinstance(found, Document)
    assert found.text == ENGLISH_PROSE.strip()
    left = run(C4Quality(remove_citations=False).build(), text)
    assert isinstance(left, Document)
    assert left.text == text


@pytest.mark.parametrize(
    ("rule", "line", "off"),
    [
        ("curly_bracket", "if (x) { return the value; }", "drop_curly_bracket"),
        ("lorem_ipsum", "Lorem ipsum dolor sit amet.", "drop_lorem_ipsum"),
    ],
)
def test_c4_drops_a_document_by_its_rule(rule: str, line: str, off: str) -> None:
    assert reason(C4Quality().build(), f"{ENGLISH_PROSE}\n{line}") == f"c4_quality.{rule}"
    assert reason(C4Quality.model_validate({off: False}).build(), f"{ENGLISH_PROSE}\n{line}") is None


@pytest.mark.parametrize(
    "text", ["One here now. Two here now. Three here now. Four.", "一二三四五。二三四五六。三四五六七。四。"]
)
def test_c4_wants_five_sentences(text: str) -> None:
    assert reason(C4Quality().build(), text) == "c4_quality.too_few_sentences"
    assert reason(C4Quality(min_sentences=4).build(), text) is None
    assert reason(C4Quality(min_sentences=None).build(), text) is None
    assert reason(C4Quality(min_sentences=None).build(), "Log in\n\nMenu") == "c4_quality.nothing_left"


@pytest.mark.parametrize("text", PROSE)
def test_fineweb_keeps_prose(text: str) -> None:
    assert reason(FinewebQuality().build(), text) is None


FEW_ENDS = "\n".join([f"This is the long title of page number {n} of the list" for n in range(9)] + ["End."])
SHORT = "\n".join(
    [f"Item number {n}." for n in range(8)] + ["This is a line that is much longer than thirty."]
)
COPIES = "\n".join(
    ["A line that stands here twice, and ends as it should."] * 2
    + [f"{n} and more, of the long lines that do not come back at all." for n in range(6)]
)
LIST = "\n".join(["one,two,three,four,five,six,seven.", *(f"{n}{'x' * 40}." for n in range(9))])
TITLES = "\n".join(f"第{n}个比较长的页面标题在这里" for n in range(10))
ITEMS = "\n".join([*(f"第{n}项。" for n in range(8)), CHINESE_PROSE.split("\n")[0]])


@pytest.mark.parametrize(
    ("rule", "text", "off"),
    [
        ("empty", " \n\n", None),
        ("lines_with_end", FEW_ENDS, "min_lines_with_end"),
        ("short_lines", SHORT, "max_short_lines"),
        ("duplicate_characters", COPIES, "max_duplicate_characters"),
        ("lines_per_word", LIST, "max_lines_per_word"),
        ("lines_with_end", TITLES, "min_lines_with_end"),
        ("short_lines", ITEMS, "max_short_lines"),
    ],
)
def test_fineweb_names_the_rule(rule: str, text: str, off: str | None) -> None:
    found = run(FinewebQuality().build(), text)
    assert isinstance(found, Drop)
    assert found.reason == f"fineweb_quality.{rule}"
    if off:
        assert reason(FinewebQuality.model_validate({off: None}).build(), text) is None


def test_the_share_of_copied_lines_is_the_papers_and_can_be_the_codes() -> None:
    night = "He speaks of what happened at the tower on night number"
    scene = "\n".join(f"Enter the {name}.\n{night} {n}.\n" for n, name in enumerate(["baker", "fisher"] * 2))
    assert reason(FinewebQuality(max_duplicate_characters=0.2).build(), scene) is None
    code = FinewebQuality(max_duplicate_characters=0.01)
    assert reason(code.build(), scene) == "fineweb_quality.duplicate_characters"
    assert FinewebQuality().max_duplicate_characters == 0.1


def test_lines_of_verse_in_chinese_are_not_short() -> None:
    verse = "\n".join(["春曉", "孟浩然", *["春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少。"]])
    assert reason(FinewebQuality().build(), verse) is None
    as_english = FinewebQuality(short_line_characters_unspaced=30)
    assert reason(as_english.build(), verse) == "fineweb_quality.short_lines"


def test_a_script_without_marks_is_not_asked_for_ends_of_sentences() -> None:
    line = "ประภาคารที่ปลายแหลมดับมาสิบเอ็ดปีแล้ว แต่สภาหมู่บ้านตัดสินใจจุดไฟอีกครั้ง"
    thai = "\n".join(f"{line}{number}" for number in "กขคงจฉชซ")
    assert reason(FinewebQuality().build(), thai) is None
    assert reason(FinewebQuality().build(), CHINESE_PROSE.replace("。", "")) is not None
