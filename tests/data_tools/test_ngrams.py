"""Repeated n-grams against a slow and plain count."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_tools.ngrams import characters_in_copies, most_in_one_ngram, repeated_ngrams

WORDS = st.lists(st.integers(0, 3), max_size=40)
SIZES = st.sets(st.integers(1, 6), min_size=1)


@given(WORDS, SIZES)
def test_finds_the_ngrams_that_occur_twice(words: list[int], sizes: set[int]) -> None:
    found = {ngrams.size: ngrams for ngrams in repeated_ngrams(np.array(words, np.uint64), sizes)}
    for size in sizes:
        grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        counts = Counter(grams)
        places = [at for at, gram in enumerate(grams) if counts[gram] > 1]
        if not places:
            assert size not in found
            continue
        ngrams = found[size]
        assert ngrams.starts.tolist() == places
        assert [int(ngrams.counts[group]) for group in ngrams.group] == [counts[grams[at]] for at in places]
        firsts = [grams.index(grams[places[first]]) for first in ngrams.first]
        assert firsts == [places[first] for first in ngrams.first]


@given(WORDS, st.integers(1, 5), st.integers(0, 30))
def test_copies_are_counted_as_gopher_is_read_by_datatrove(words: list[int], size: int, enough: int) -> None:
    lengths = np.array([word + 1 for word in words], np.int64)
    # Plainly: a seen n-gram is skipped whole; what is skipped is not seen.
    seen, copied, at = set(), 0, 0
    while at + size <= len(words):
        gram = tuple(words[at : at + size])
        if gram in seen:
            copied += int(lengths[at : at + size].sum())
            at += size
        else:
            seen.add(gram)
            at += 1
    found = 0
    for ngrams in repeated_ngrams(np.array(words, np.uint64), {size}):
        spans = np.array([lengths[start : start + size].sum() for start in ngrams.starts])
        found = characters_in_copies(ngrams, spans, enough)
    assert (found > enough) == (copied > enough)


def test_the_top_ngram_is_the_first_of_the_most_frequent() -> None:
    words = np.array([7, 8, 1, 2, 7, 8, 1, 2, 5], np.uint64)
    (pairs,) = (ngrams for ngrams in repeated_ngrams(words, {2}))
    lengths = np.where(words[pairs.starts] == 7, 10, 1)
    assert most_in_one_ngram(pairs, lengths) == 20
