"""Personal data in several scripts is masked, and what only looks like it is left."""

import re

import pytest

from data_tools.document import Document
from data_tools.steps.pii import Pii
from tests.data_tools.passages import run
from tests.data_tools.pii_table import MASKED_WRONGLY, MISSED, NOTHING, PERSONAL

PLACEHOLDERS = {"e": "<EMAIL>", "i": "<IP_ADDRESS>", "p": "<PHONE>", "s": "<SECRET>"}
STEP = Pii().build()


def masked(text: str) -> str:
    found = run(STEP, text)
    assert isinstance(found, Document)
    return found.text


@pytest.mark.parametrize("line", PERSONAL)
def test_personal_data_is_masked_and_nothing_else_of_the_line(line: str) -> None:
    text = re.sub("⟦.|⟧", "", line)
    once = masked(text)
    assert once == re.sub("⟦(.).*?⟧", lambda match: PLACEHOLDERS[match[1]], line)
    assert masked(once) == once


@pytest.mark.parametrize("line", NOTHING)
def test_what_only_looks_like_personal_data_is_left(line: str) -> None:
    assert masked(line) == line


def test_the_table_is_large_enough_for_its_figures() -> None:
    assert len(PERSONAL) >= 75
    assert len(NOTHING) >= 75


def test_what_the_documentation_calls_wrong_is_wrong() -> None:
    for line in MISSED:
        text = re.sub("⟦.|⟧", "", line)
        assert masked(text) == text
    for line in MASKED_WRONGLY:
        assert masked(line) != line
