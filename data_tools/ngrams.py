"""The n-grams of a text that occur more than once, found for ascending n from the hashes of its words."""

from collections.abc import Collection, Iterator
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


def repeated_ngrams(words: Hashes, sizes: Collection[int]) -> Iterator[RepeatedNgrams]:
    """The repeated n-grams for each n of `sizes`, ascending; ends at the first n that has none.

    A longer n-gram that occurs twice begins with a shorter one that does, so each n looks only at the places
    of the one before.
    """
    starts = np.arange(len(words))
    hashes = np.zeros(len(words), np.uint64)
    for size in range(1, max(sizes, default=0) + 1):
        inside = int(np.searchsorted(starts, len(words) - size, side="right"))
        starts = starts[:inside]
        hashes = hashes[:inside] * _BASE + words[starts + (size - 1)]
        if size not in sizes:
            continue
        group, counts = _groups(hashes)
        repeated = counts > 1
        kept = repeated[group]
        starts, hashes = starts[kept], hashes[kept]
        if not len(starts):
            return
        renumbered = np.cumsum(repeated) - 1
        group, counts = renumbered[group[kept]], counts[repeated]
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
    begins = np.ones(len(hashes), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    group = np.empty(len(hashes), np.int64)
    group[order] = np.cumsum(begins) - 1
    places = np.flatnonzero(begins)
    counts = np.empty(len(places), np.int64)
    np.subtract(places[1:], places[:-1], out=counts[:-1])
    counts[-1:] = len(hashes) - places[-1:]
    return group, counts


def _first(group: Ints, num_groups: int) -> npt.NDArray[np.int64]:
    """The first place of each group [G]."""
    first = np.empty(num_groups, np.int64)
    first[group[::-1]] = np.arange(len(group) - 1, -1, -1)
    return first
