"""Substrings that documents share: keys of runs of units, chosen by winnowing, and where some are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_tools.duplicates.corpus import RepeatKeys
from data_tools.duplicates.cutting import Span, check_keys
from data_tools.duplicates.hashing import Ints, SpanHasher, UInts, Windows, hash_windows
from data_tools.duplicates.settings import Substrings
from data_tools.duplicates.units import Splitter


class SubstringKeyer:
    """Gives a text keys of which equal substrings of `length` units have one in common.

    Winnowing (Schleimer, Wilkerson and Aiken, 2003): of every run of neighbouring fingerprints the least is
    chosen, a fingerprint being the hash of a little more than half of `length` units: so long that the
    chosen ones of a longer substring leave no gap between them.
    """

    def __init__(self, substrings: Substrings) -> None:
        self._settings = substrings
        self._split = Splitter("words", substrings.numbers)
        self._hasher = SpanHasher()
        self.run = substrings.length // 2 + 1

    def keys(self, texts: Sequence[str], first: int = 0) -> RepeatKeys:
        """The chosen keys; `at` is the number of a unit of its text, from which on `self.run` units are
        meant. The documents are numbered from `first` on."""
        units = self._split(texts)
        prints = hash_windows(self._hasher, units.hash, units.first, self.run)
        chosen = np.flatnonzero(_winnow(prints, self._settings.length - self.run + 1))
        document = np.searchsorted(prints.first, chosen, side="right") - 1
        return RepeatKeys(prints.hashes[chosen], document + first, chosen - prints.first[document])

    def spans(self, text: str, at: Ints, key: UInts) -> list[Span]:
        """Where the runs of units are that begin at the units `at` [n].

        Raises FailedWork where they are not those that had the keys.
        """
        units = self._split([text])
        inside = bool((at + self.run <= len(units.hash)).all())
        check_keys(inside and np.array_equal(self._hasher(units.hash, at, at + self.run), key))
        return list(zip(units.start[at].tolist(), units.end[at + self.run - 1].tolist(), strict=True))


def _winnow(prints: Windows, width: int) -> npt.NDArray[np.bool_]:
    """Which fingerprints are the least of one of their document's runs of `width` [fingerprints]."""
    least = _sliding(prints.hashes, width, np.minimum)
    # Runs that leave their document, or would, choose nothing.
    end = np.repeat(prints.first[1:], np.diff(prints.first))
    least[np.arange(len(least)) + width > end] = 0
    padded = np.concatenate([np.zeros(width - 1, np.uint64), least])
    return np.equal(_sliding(padded, width, np.maximum)[: len(least)], prints.hashes)


def _sliding(values: UInts, width: int, least: np.ufunc) -> UInts:
    """The least (or greatest) of values[i:i + width] for each i [n]; of what there is near the end."""
    found, covered = values.copy(), 1
    while covered < width:
        step = min(covered, width - covered)
        found[:-step] = least(found[:-step], found[step:])
        covered += step
    return found
