"""What rules by line may not take apart: preformatted blocks, tables, lists of definitions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.analysis import analyse
from data_tools.document import Document, Drop, Step
from data_tools.duplicates.paragraphs import paragraphs_of
from data_tools.fences import fenced, joined, units
from data_tools.steps.boilerplate import Boilerplate
from data_tools.steps.c4_quality import C4Quality
from data_tools.steps.extract import Extract
from data_tools.steps.fineweb_quality import FinewebQuality
from tests.data_tools.passages import ENGLISH_PROSE

CODE = """\
[main]
x = a[1]

# All rights reserved
javascript = on


    y
use cookies
Home | News | About | Sport | Help
x = a[1] + list[]"""
RULES: list[Step] = [
    C4Quality().build(),
    C4Quality(require_sentence_end=True, min_words_in_line=9, min_sentences=None).build(),
    Boilerplate().build(),
    Boilerplate(repeated_lines="remove", repeated_line_characters=1).build(),
]


def after(step: Step, text: str) -> str:
    found = step(Document(text, "web"))
    assert isinstance(found, Document), found
    return found.text


@pytest.mark.parametrize("step", RULES)
@pytest.mark.parametrize(
    "block",
    [
        f"```\n{CODE}\n```",
        f"~~~ ini\n{CODE}\n~~~",
        f"````\n```\n{CODE}\n```\n````",
        "    if x:\n\n\n        return\n    a[1]",
        "\tmake\n\tinstall",
    ],
)
def test_a_preformatted_block_is_kept_whole(step: Step, block: str) -> None:
    found = after(step, f"{ENGLISH_PROSE}\n\n{block}\n\nLog in\n\n{ENGLISH_PROSE[::-1]}.")
    assert f"\n{block}\n" in f"\n{found}\n"
    assert "Log in" not in found


@pytest.mark.parametrize("step", RULES[:1] + RULES[2:])
@pytest.mark.parametrize("rows", ["-v\tVerbose.\n-q\tBe quiet.", "a\tb\n1\t2\n3\t\t4", "甲\t一\n乙\t二"])
def test_rows_are_kept_or_removed_together(step: Step, rows: str) -> None:
    assert rows in after(step, f"{ENGLISH_PROSE}\n\n{rows}\n\nLog in")
    all_of_menus = "Log in\tSign up\nRead more\tSign in" if step in RULES[2:] else "a\t\n\tb"
    assert all_of_menus.strip() not in after(step, f"{ENGLISH_PROSE}\n\n{all_of_menus}") or step in RULES[2:]


def test_a_fence_that_is_never_closed_is_a_line() -> None:
    assert [unit.kind for unit in units(["```", "Log in", "x"])] == ["line"] * 3


def test_bullets_and_numbers_are_no_code() -> None:
    assert {unit.kind for unit in units(["    • a", "    • b", "    1. c", "    2. d"])} == {"line"}


@given(st.text("`~ a\tb\n", max_size=60))
def test_units_are_the_lines(text: str) -> None:
    lines = text.splitlines()
    assert [line for unit in units(lines) for line in unit.lines] == lines


@given(st.text("`a \n", max_size=30).filter(lambda text: "\n" in text.strip("\n")))
def test_what_is_fenced_is_one_unit(text: str) -> None:
    (unit,) = units(fenced(text).split("\n"))
    assert unit.kind == "preformatted"


def test_where_a_line_goes_one_of_the_empty_lines_around_it_goes() -> None:
    lines = units(["a", "", "b", "", "", "c"])
    assert joined((unit.lines != ["b"], unit) for unit in lines) == "a\n\nc"
    assert joined((True, unit) for unit in lines) == "a\n\nb\n\n\nc"


def test_a_block_counts_as_one_line() -> None:
    assert analyse("a\n```\nb\nb\nb\n\n```\nc").filled_lines == ["a", "```\nb\nb\nb\n\n```", "c"]
    code = "```\n" + "}\n" * 200 + "```"
    assert isinstance(FinewebQuality().build()(Document(f"{ENGLISH_PROSE}\n{code}", "web")), Document)


@pytest.mark.parametrize("step", RULES[:1] + RULES[2:])
def test_a_page_of_code_comes_through_extraction_and_rules_without_holes(step: Step) -> None:
    paragraphs = "".join(f"<p>{line}</p>" for line in ENGLISH_PROSE.splitlines() if line)
    html = f"<main>{paragraphs}<pre>{CODE}</pre>{paragraphs}</main>"
    page = Extract().build()(Document("", "web", content=html.encode()))
    assert not isinstance(page, Drop)
    assert CODE in after(step, page.text)


def test_repeated_paragraphs_are_found_by_block() -> None:
    block = "```\nthe same line of code\n\nthe same line of code\n```"
    text = f"before\n{block}\nafter it\n```"
    assert paragraphs_of(text) == ["before", block, "after it", "```"]
    assert "\n".join(paragraphs_of(text)) == text
