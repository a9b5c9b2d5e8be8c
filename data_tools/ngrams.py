"""The n-grams of a text that occur more than once, found for ascending n from hashes of its words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.words import Hashes, Ints

_BASE = np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class RepeatedNgrams:
    """The places where an n-gram stands that occurs at least twice: M places of G n-grams.

    `starts` [M] are numbers of words, ascending; `group` [M] says which n-gram, `counts` [G] how often it
    occurs and `first` [G] at which of the M places first.
    """

    size: int
    starts: Ints
    group: Ints
    counts: Ints
    first: Ints


def repeated_ngrams(words: Hashes, largest: int) -> Iterator[RepeatedNgrams]:
    """The repeated n-grams for n = 1, 2, ... `largest`; ends at the first n that has none.

    An (n+1)-gram that occurs twice begins with an n-gram that does, so each n looks only at the places of the
    one before.
    """
    starts = np.arange(len(words))
    hashes = np.zeros(len(words), np.uint64)
    for size in range(1, largest + 1):
        inside = starts + size <= len(words)
        starts, hashes = starts[inside], hashes[inside]
        hashes = hashes * _BASE + words[starts + (size - 1)]
        group, counts = _groups(hashes)
        kept = counts[group] > 1
        if not kept.any():
            return
        starts, hashes = starts[kept], hashes[kept]
        renumbered = np.cumsum(counts > 1) - 1
        group, counts = renumbered[group[kept]], counts[counts > 1]
        yield RepeatedNgrams(size, starts, group, counts, _first(group, len(counts)))


def most_in_one_ngram(ngrams: RepeatedNgrams, lengths: Ints) -> int:
    """The characters [of `lengths` a place, M] in all places of the n-gram that occurs most often.

    Of several, that which stands first in the text.
    """
    most = ngrams.counts.max()
    place = ngrams.first[ngrams.counts == most].min()
    return int(most * lengths[place])


def characters_in_copies(ngrams: RepeatedNgrams, lengths: Ints, enough: float) -> int:
    """The characters [of `lengths` a place, M] in copies that do not overlap, read from the text's start.

    Reading stops above `enough`. Equal to datatrove's find_all_duplicate: a copy is skipped as a whole, and
    what begins inside it counts neither as seen nor as a copy.
    """
    if int(lengths.sum() - lengths[ngrams.first].sum()) <= enough:
        return 0  # Not even all copies, overlapping ones too, have as many.
    seen = bytearray(len(ngrams.counts))
    free, found = 0, 0
    for start, group, length in zip(
        ngrams.starts.tolist(), ngrams.group.tolist(), lengths.tolist(), strict=True
    ):
        if start < free:
            continue
        if seen[group]:
            found += length
            free = start + ngrams.size
            if found > enough:
                break
        seen[group] = 1
    return found


def _groups(hashes: Hashes) -> tuple[Ints, Ints]:
    """Which of the distinct values each is [n], and how often each value occurs."""
    order = np.argsort(hashes)
    ordered = hashes[order]
    starts = np.ones(len(hashes), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
    group = np.empty(len(hashes), np.int64)
    group[order] = np.cumsum(starts) - 1
    return group, np.diff(np.flatnonzero(starts), append=len(hashes))


def _first(group: Ints, num_groups: int) -> npt.NDArray[np.int64]:
    """The first place of each group [G]."""
    first = np.empty(num_groups, np.int64)
    first[group[::-1]] = np.arange(len(group) - 1, -1, -1)
    return first
