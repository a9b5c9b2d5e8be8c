"""Paragraphs, which are lines or preformatted blocks: their keys, and where some of them are."""

from collections.abc import Sequence

import numpy as np

from data_tools.duplicates.corpus import RepeatKeys
from data_tools.duplicates.cutting import Span, check_keys
from data_tools.duplicates.hashing import Ints, SpanHasher, UInts
from data_tools.duplicates.settings import Paragraphs
from data_tools.duplicates.units import Splitter
from data_tools.fences import may_have_fences, units


def paragraphs_of(text: str) -> list[str]:
    """Return the lines of a text; a block between fences (```) is one, and is never taken apart."""
    lines = text.split("\n")
    if not may_have_fences(text):
        return lines
    return ["\n".join(unit.lines) for unit in units(lines, indented=False, rows=False)]


class ParagraphKeyer:
    """Gives a text's paragraphs keys that are equal where the paragraphs are, folded."""

    def __init__(self, paragraphs: Paragraphs) -> None:
        self._settings = paragraphs
        self._split = Splitter("words", paragraphs.numbers)
        self._hasher = SpanHasher()

    def keys(self, texts: Sequence[str], first: int = 0) -> RepeatKeys:
        """The keys of all paragraphs that are long enough; `at` is the number of a paragraph of its text.

        The documents are numbered from `first` on.
        """
        lines = [paragraphs_of(text) for text in texts]
        counts = np.array([len(of_text) for of_text in lines], np.int64)
        units = self._split([line for of_text in lines for line in of_text])
        key = self._hasher(units.hash, units.first[:-1], units.first[1:])
        number = np.arange(len(key)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = np.flatnonzero(np.diff(units.first) >= self._settings.min_units)
        document = np.repeat(np.arange(len(texts)), counts)
        return RepeatKeys(key[kept], document[kept] + first, number[kept])

    def spans(self, text: str, at: Ints, key: UInts) -> list[Span]:
        """Where the paragraphs `at` [n] are, their line ends included.

        Raises FailedWork where they are not those that had the keys.
        """
        keys = self.keys([text])
        among = np.isin(keys.at, at)
        check_keys(np.array_equal(keys.at[among], at) and np.array_equal(keys.key[among], key))
        ends = np.cumsum([len(line) + 1 for line in paragraphs_of(text)])
        return [(int(ends[number - 1]) if number else 0, min(int(ends[number]), len(text))) for number in at]
