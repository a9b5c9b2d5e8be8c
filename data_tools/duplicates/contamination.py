"""The n-grams of evaluation sets, and where a text has one of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from data_tools.duplicates.cutting import Span
from data_tools.duplicates.hashing import Ints, SpanHasher, UInts
from data_tools.duplicates.units import Splitter, Units

# A Chinese word has about so many characters: 13 words are looked for as 20 characters.
_CHARACTERS_A_WORD: Final = 1.5
_TEXTS_AT_ONCE: Final = 4096
# Cells of the filter for each hash in it: about one in so many other hashes passes.
_CELLS: Final = 16


@dataclass(frozen=True)
class Hit:
    """A run of characters that a text has in common with an evaluation set."""

    name: str
    span: Span


class Contamination:
    """The n-grams of evaluation sets.

    An n-gram is `ngram` words, or half as many again single characters where most of an evaluation text is in
    a script without blanks. A text of fewer, but `min_ngram` at least, is looked for as a whole. `texts` and
    `too_short` say how many each set has, and how many of these are shorter still.
    """

    def __init__(self, sets: Mapping[str, Iterable[str]], ngram: int, min_ngram: int) -> None:
        self._split = Splitter("words", "distinct")
        self._hasher = SpanHasher()
        self._names = tuple(sets)
        self.texts, self.too_short = dict.fromkeys(sets, 0), dict.fromkeys(sets, 0)
        words = _Sizes(min_ngram, ngram)
        characters = _Sizes(round(min_ngram * _CHARACTERS_A_WORD), round(ngram * _CHARACTERS_A_WORD))
        grams: dict[_Sizes, list[_Grams]] = {words: [], characters: []}
        for number, (name, texts) in enumerate(sets.items()):
            for units in self._units(texts):
                count = np.diff(units.first)
                self.texts[name] += int((count > 0).sum())
                singles = np.diff(np.concatenate([[0], np.cumsum(units.single)])[units.first])
                for sizes, of_script in ((words, 2 * singles <= count), (characters, 2 * singles > count)):
                    enough = count >= sizes.least
                    self.too_short[name] += int((of_script & ~enough & (count > 0)).sum())
                    chosen = np.flatnonzero(of_script & enough)
                    grams[sizes].append(_grams(self._hasher, units, chosen, sizes, number))
        self._indices = [_Index(sizes.least, parts) for sizes, parts in grams.items()]

    def find(self, text: str) -> list[Hit]:
        """What the text has in common with the sets, in its order; what touches is one hit."""
        units = self._split([text])
        hits = []
        for index in self._indices:
            for start, end, number in index.find(self._hasher, units.hash):
                span = int(units.start[start]), int(units.end[end - 1])
                hits.append(Hit(self._names[number], span))
        return _merged(hits)

    def _units(self, texts: Iterable[str]) -> Iterator[Units]:
        remaining = iter(texts)
        while some := list(islice(remaining, _TEXTS_AT_ONCE)):
            yield self._split(some)


@dataclass(frozen=True)
class _Sizes:
    """How many units an n-gram has, `least` where a text has no more."""

    least: int
    most: int


@dataclass(frozen=True)
class _Grams:
    """n-grams [n]: the hashes of all units and of the first `least`, how many units, of which set."""

    whole: UInts
    begin: UInts
    size: Ints
    number: Ints


def _grams(hasher: SpanHasher, units: Units, texts: Ints, sizes: _Sizes, number: int) -> _Grams:
    count = np.diff(units.first)[texts]
    size = np.minimum(count, sizes.most)
    grams = count - size + 1
    start = np.arange(grams.sum()) + np.repeat(units.first[texts] - np.cumsum(grams) + grams, grams)
    size = np.repeat(size, grams)
    return _Grams(
        hasher(units.hash, start, start + size),
        hasher(units.hash, start, start + sizes.least),
        size,
        np.full(len(start), number),
    )


class _Index:
    """Looks up n-grams by their first `least` units, and where these are known by all of them."""

    def __init__(self, least: int, parts: Sequence[_Grams]) -> None:
        whole = np.concatenate([np.empty(0, np.uint64), *(part.whole for part in parts)])
        begin = np.concatenate([np.empty(0, np.uint64), *(part.begin for part in parts)])
        number = np.concatenate([np.empty(0, np.int64), *(part.number for part in parts)])
        self._least = least
        self._begin = np.unique(begin)
        self._whole, first = np.unique(whole, return_index=True)  # Of the first set that has it.
        self._number = number[first]
        self._sizes = sorted({int(size) for part in parts for size in np.unique(part.size)})
        cells = 1 << max(_CELLS * len(self._begin), 1).bit_length()
        self._mask = np.uint64(cells - 1)
        self._filter = np.zeros(cells, bool)
        self._filter[self._begin & self._mask] = True

    def find(self, hasher: SpanHasher, units: UInts) -> Iterator[tuple[int, int, int]]:
        """First unit, the one behind the last, and number of the set."""
        start = np.arange(len(units) - self._least + 1)
        begin = hasher(units, start, start + self._least)
        start = np.flatnonzero(self._filter[begin & self._mask])
        start = start[_known(self._begin, begin[start])]
        for size in self._sizes if len(start) else ():
            inside = start[start + size <= len(units)]
            whole = hasher(units, inside, inside + size)
            known = _known(self._whole, whole)
            numbers = self._number[np.searchsorted(self._whole, whole[known])]
            for at, number in zip(inside[known].tolist(), numbers.tolist(), strict=True):
                yield at, at + size, number


def _known(known: UInts, hashes: UInts) -> npt.NDArray[np.bool_]:
    """Which of the hashes are in a sorted array [n]."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    return np.equal(known[np.minimum(np.searchsorted(known, hashes), len(known) - 1)], hashes)


def _merged(hits: list[Hit]) -> list[Hit]:
    merged: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: hit.span):
        if merged and hit.span[0] <= merged[-1].span[1]:
            end = max(hit.span[1], merged[-1].span[1])
            merged[-1] = Hit(merged[-1].name, (merged[-1].span[0], end))
        else:
            merged.append(hit)
    return merged
