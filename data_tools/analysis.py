"""What several steps ask of one text, computed once: its words, its lines, its sentences' ends."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from data_tools.fences import Unit, may_have_fences, units
from data_tools.words import Words, split_words

_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Analysis:
    """The parts of one text, each made when it is first asked for."""

    text: str

    @cached_property
    def words(self) -> Words:
        """The words, as data_tools.words has them."""
        return split_words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """The lines, empty ones too, without their ends."""
        return self.text.splitlines()

    @cached_property
    def filled_lines(self) -> list[str]:
        """The lines that hold more than spaces; a block between fences is one line."""
        lines = self.lines
        if may_have_fences(self.text):
            lines = ["\n".join(unit.lines) for unit in units(lines, indented=False, rows=False)]
        return [line for line in lines if line and not line.isspace()]

    @cached_property
    def units(self) -> list[Unit]:
        """The lines that are kept or removed together."""
        return units(self.lines)

    @cached_property
    def paragraphs(self) -> list[str]:
        """What stands between empty lines."""
        return _PARAGRAPH_BREAK.split(self.text.strip())


@lru_cache(maxsize=1)
def analyse(text: str) -> Analysis:
    """The analysis of a text; of the text that was asked for last, the same one.

    A pure function: filters that follow one another on the same text share what they compute.
    """
    return Analysis(text)


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts are copies of an earlier one, and how many characters those have."""
    distinct = set(parts)
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))
