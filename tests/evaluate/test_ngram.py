"""N-gram baselines against a slow model that follows the definition word for word."""

import math
from collections import Counter
from collections.abc import Sequence
from pydoc_data import topics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatrain.evaluate.ngram import NgramModel, baselines, discounts

EOS = 0
BEGIN = -1
Gram = tuple[int, ...]


class SlowKneserNey:
    """Chen & Goodman's interpolated modified Kneser-Ney with dictionaries, one n-gram after another."""

    def __init__(self, documents: Sequence[Sequence[int]], order: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        texts = [(BEGIN, *document) for document in documents]
        raw = Counter(
            text[first : first + n]
            for n in range(1, order + 1)
            for text in texts
            for first in range(len(text) - n + 1)
        )
        self.counts: dict[Gram, int] = {}
        for gram, count in raw.items():
            if gram == (BEGIN,):
                continue
            own = len(gram) == order or gram[0] == BEGIN
            self.counts[gram] = count if own else len({g[0] for g in raw if g[1:] == gram})
        self.discounts = {
            n: discounts(np.array([count for gram, count in self.counts.items() if len(gram) == n]))
            for n in range(1, order + 1)
        }
        self.order = order

    def probability(self, context: Gram, word: int) -> float:
        """`context` is cut to the order; an unseen one passes on to the order below."""
        context = context[len(context) - self.order + 1 :] if len(context) >= self.order else context
        followers = {
            gram[-1]: count
            for gram, count in self.counts.items()
            if gram[:-1] == context and len(gram) == len(context) + 1
        }
        below = self.probability(context[1:], word) if context else 1 / self.vocab_size
        total = sum(followers.values())
        if total == 0:
            return below
        discount = self.discounts[len(context) + 1]
        left = sum(discount[min(count, 3) - 1] for count in followers.values())
        count = followers.get(word, 0)
        own = count - discount[min(count, 3) - 1] if count else 0.0
        return (own + left * below) / total


def documents_of(tokens: np.ndarray) -> list[list[int]]:
    """Each with its EOS; the last one perhaps without."""
    cuts = np.flatnonzero(tokens == EOS) + 1
    return [part.tolist() for part in np.split(tokens, cuts) if len(part)]


def text_tokens(last: int) -> np.ndarray:
    """Bytes of real English, with 0 between the documents."""
    data = b"\0".join(text.encode() for _, text in sorted(topics.topics.items()))[:last]
    return np.frombuffer(data, dtype=np.uint8)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_definition(order: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    train, heldout = (
        np.minimum(generator.geometric(0.2, size) - 1, 11).astype(np.uint16) for size in (400, 120)
    )
    model = NgramModel.fit(train, order=order, vocab_size=13, eos_id=EOS)
    slow = SlowKneserNey(documents_of(train), order, 13)
    expected = [
        slow.probability((BEGIN, *document[:place]), word)
        for document in documents_of(heldout)
        for place, word in enumerate(document)
    ]
    assert model.probabilities(heldout) == pytest.approx(expected, rel=1e-12)


def test_a_small_case_by_hand() -> None:
    """One document 1 1 2 EOS, bigram. Discounts: the default 0.5, 1, 1.5, for the corpus is too small."""
    model = NgramModel.fit(np.array([1, 1, 2, EOS]), order=2, vocab_size=4, eos_id=EOS)
    # Different symbols to the left of 0, 1, 2: one (2), two (begin, 1), one (1); word 3 was never seen.
    left_over = (0.5 + 1.0 + 0.5) / 4 / 4
    unigram = np.array([0.5 / 4, 1 / 4, 0.5 / 4, 0]) + left_over
    assert model.unigram == pytest.approx(unigram)
    # After 1 came 1 once and 2 once: each keeps 0.5 of 2, and a half is left for the unigrams.
    given_one = np.array([0, 0.25, 0.25, 0]) + 0.5 * unigram
    for word in range(4):
        assert model.probabilities(np.array([1, word]))[1] == pytest.approx(given_one[word])


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    context=st.lists(st.integers(1, 7), max_size=6),
    order=st.integers(1, 5),
)
def test_probabilities_of_all_words_sum_to_one(tokens: list[int], context: list[int], order: int) -> None:
    """In any context, seen or not, at a document's begin or later; word 7 is never in the training text."""
    model = NgramModel.fit(np.array(tokens), order=order, vocab_size=8, eos_id=EOS)
    asked = np.array([symbol for word in range(8) for symbol in (*context, word, EOS)])
    probabilities = model.probabilities(asked).reshape(8, -1)[:, len(context)]
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_sums_to_one_on_real_text() -> None:
    model = NgramModel.fit(text_tokens(100_000), order=5, vocab_size=256, eos_id=EOS)
    for context in (b"The stat", b"zqx", b"def", b"", b"\xff"):
        asked = b"".join(context + bytes([word, EOS]) for word in range(256))
        probabilities = model.probabilities(np.frombuffer(asked, dtype=np.uint8))
        assert probabilities.reshape(256, -1)[:, len(context)].sum() == pytest.approx(1, abs=1e-9)


def test_contexts_end_at_the_documents_begin() -> None:
    model = NgramModel.fit(text_tokens(50_000), order=5, vocab_size=256, eos_id=EOS)
    document = np.frombuffer(b"The return statement\0", dtype=np.uint8)
    alone = model.probabilities(document)
    after_another = model.probabilities(np.concatenate([text_tokens(777)[:-1], [EOS], document]))
    assert after_another[-len(document) :].tolist() == alone.tolist()


def test_higher_orders_are_better_on_real_text_and_the_mask_decides_what_counts() -> None:
    tokens = text_tokens(400_000)
    train, heldout = tokens[:360_000], tokens[360_000:]
    predicted = np.ones(len(heldout), dtype=bool)
    predicted[1:] = heldout[:-1] != EOS  # the first of a document is not predicted
    predicted[0] = False
    bits = [
        NgramModel.fit(train, order=order, vocab_size=256, eos_id=EOS).bits(heldout, predicted)
        for order in range(1, 6)
    ]
    assert bits == sorted(bits, reverse=True) and bits[4] < 0.6 * bits[0]
    # Entropy of English by bytes: about 4.5 bits for single letters, and 5-grams come near 2.
    assert 4 < bits[0] / predicted.sum() < 5.2
    named = baselines(train, heldout, predicted, int(predicted.sum()), 256, EOS)
    assert [round(value, 9) for value in named.values()] == [
        round(bits[order - 1] / predicted.sum(), 9) for order in (1, 2, 5)
    ]
    model = NgramModel.fit(train, order=3, vocab_size=256, eos_id=EOS)
    assert model.bits(heldout, predicted) + model.bits(heldout, ~predicted) == pytest.approx(
        model.bits(heldout, np.ones_like(predicted))
    )
    assert model.bits(heldout, np.zeros_like(predicted)) == 0


def test_discounts_are_those_of_chen_and_goodman() -> None:
    counts = np.repeat([0, 1, 2, 3, 4, 9], [5, 100, 40, 20, 12, 30])
    y = 100 / (100 + 80)
    expected = (1 - 2 * y * 40 / 100, 2 - 3 * y * 20 / 40, 3 - 4 * y * 12 / 20)
    assert discounts(counts) == pytest.approx(expected)
    assert discounts(np.array([1, 1, 5])) == (0.5, 1.0, 1.5)


def test_documents_shorter_than_the_order() -> None:
    model = NgramModel.fit(np.array([1, EOS, 1, EOS]), order=5, vocab_size=3, eos_id=EOS)
    assert math.isclose(model.probabilities(np.array([1, 1, 1, 1, 1, 2])).prod(), 0, abs_tol=1e-3)
