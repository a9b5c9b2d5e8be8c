"""N-gram models over token ids: the baselines that a trained model's bits per byte are held against.

Interpolated modified Kneser-Ney smoothing (Chen & Goodman 1998, TR-10-98), as KenLM has it: three discounts
an order, estimated from the counts of counts; below the highest order a count is the number of different
symbols to the left; the unigrams are interpolated with the uniform distribution. One begin-of-document symbol
stands before each document and is never predicted; nothing stands to its left, so n-grams that begin with it
keep their own counts. No context crosses it.

Everything is done on whole arrays: an n-gram is packed as (number of its context) * (vocabulary + 1) + word,
and numbered by its place among the sorted packed keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order n >= 2. A context's number is its number as an (n-1)-gram."""

    keys: Array
    """Sorted; an n-gram's number is its place."""
    discounted: Reals
    """Of each n-gram: (count - discount) / count of its context."""
    backoff: Reals
    """Of each context: the mass that its discounts leave to the order below; 1 where nothing followed."""


@dataclass(frozen=True)
class NgramModel:
    """A smoothed n-gram model; made by `fit`."""

    order: int
    vocab_size: int
    eos_id: int
    unigram: Reals
    levels: tuple[_Level, ...]

    @staticmethod
    def fit(tokens: npt.NDArray[np.integer], *, order: int, vocab_size: int, eos_id: int) -> NgramModel:
        """Count and smooth. `tokens`: documents one after another, each ended by `eos_id`."""
        assert order >= 1 and tokens.ndim == 1 and len(tokens) > 0
        symbols, _ = _with_begins(tokens, vocab_size, eos_id)
        grams, begins = symbols, np.arange(vocab_size + 1) == vocab_size
        counts = np.bincount(symbols, minlength=vocab_size + 1)
        keys = np.arange(vocab_size + 1)
        adjusted: list[tuple[Array, Array]] = []  # of each order: keys, counts
        for _ in range(1, order):
            longer, types, first, raw = _extend(grams, symbols, vocab_size)
            context = types // (vocab_size + 1)
            left = np.bincount(grams[first], minlength=len(keys))
            adjusted.append((keys, np.where(begins, counts, left)))
            grams, keys, counts, begins = longer, types, raw, begins[context]
        adjusted.append((keys, counts))
        lower = [len(keys) for keys, _ in adjusted]
        return NgramModel(
            order=order,
            vocab_size=vocab_size,
            eos_id=eos_id,
            unigram=_unigram(adjusted[0][1][:vocab_size]),
            levels=tuple(
                _smooth(keys, counts, contexts=lower[number], vocab_size=vocab_size)
                for number, (keys, counts) in enumerate(adjusted[1:])
            ),
        )

    def probabilities(self, tokens: npt.NDArray[np.integer]) -> Reals:
        """Of each token, given the up to `order - 1` symbols before it in its document."""
        symbols, places = _with_begins(tokens, self.vocab_size, self.eos_id)
        result = np.append(self.unigram, 1.0)[symbols]
        grams = symbols
        for level in self.levels:
            if len(level.keys) == 0:  # No document is that long.
                break
            context = np.concatenate([[-1], grams[:-1]])
            usable = (context >= 0) & (symbols != self.vocab_size)
            packed = np.where(usable, context * (self.vocab_size + 1) + symbols, -1)
            place = np.minimum(np.searchsorted(level.keys, packed), len(level.keys) - 1)
            found = level.keys[place] == packed
            result = np.where(usable, result * level.backoff[context], result)
            result[found] += level.discounted[place[found]]
            grams = np.where(found, place, -1)
        return result[places]

    def bits(self, tokens: npt.NDArray[np.integer], predicted: Mask) -> float:
        """Total bits of the tokens at which `predicted` is true; the others are context only."""
        assert predicted.shape == tokens.shape
        return float(-np.log2(self.probabilities(tokens)[predicted]).sum())


def baselines(
    train_tokens: npt.NDArray[np.integer],
    heldout_tokens: npt.NDArray[np.integer],
    mask: Mask,
    heldout_bytes: int,
    vocab_size: int,
    eos_id: int,
) -> dict[str, float]:
    """Bits per byte of held-out text: name, with its smoothing → total bits of the masked tokens / bytes.

    `mask` is true at the tokens on which the model is scored, `heldout_bytes` are the bytes of their text.
    """
    orders = {
        "unigram (discounted, with uniform)": 1,
        "bigram (modified Kneser-Ney)": 2,
        "5-gram (modified Kneser-Ney)": 5,
    }
    return {
        name: NgramModel.fit(train_tokens, order=order, vocab_size=vocab_size, eos_id=eos_id).bits(
            heldout_tokens, mask
        )
        / heldout_bytes
        for name, order in orders.items()
    }


def discounts(counts: Array) -> tuple[float, float, float]:
    """Of counts 1, 2 and 3 or more, from the counts of counts (Chen & Goodman, equation 26).

    Where these are too few for the estimate, as in a corpus of a few sentences: 0.5, 1 and 1.5, as in KenLM.
    """
    n1, n2, n3, n4 = (int((counts == value).sum()) for value in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimate = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= value <= count for count, value in enumerate(estimate, start=1)):
            return estimate
    return 0.5, 1.0, 1.5


def _with_begins(tokens: npt.NDArray[np.integer], vocab_size: int, eos_id: int) -> tuple[Array, Array]:
    """The tokens with the symbol `vocab_size` before each document, and where each token stands now."""
    assert len(tokens) == 0 or (int(tokens.max()) < vocab_size and int(tokens.min()) >= 0)
    begins = np.ones(len(tokens), dtype=bool)
    begins[1:] = tokens[:-1] == eos_id
    symbols = np.insert(tokens.astype(np.int64), np.flatnonzero(begins), vocab_size)
    return symbols, np.arange(len(tokens)) + np.cumsum(begins)


def _extend(grams: Array, symbols: Array, vocab_size: int) -> tuple[Array, Array, Array, Array]:
    """From the (n-1)-gram that ends at each place to the n-grams.

    Gives the number of the n-gram that ends at each place (-1: none within the document), their keys, a
    place where each of them ends, and how often each occurs.
    """
    context = np.concatenate([[-1], grams[:-1]])
    places = np.flatnonzero((context >= 0) & (symbols != vocab_size))
    keys, first, inverse, counts = np.unique(
        context[places] * (vocab_size + 1) + symbols[places],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    longer = np.full(len(symbols), -1, dtype=np.int64)
    longer[places] = inverse
    return longer, keys, places[first], counts


def _smooth(keys: Array, counts: Array, *, contexts: int, vocab_size: int) -> _Level:
    context = keys // (vocab_size + 1)
    total = np.bincount(context, weights=counts, minlength=contexts)
    taken = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    left_over = np.bincount(context, weights=taken, minlength=contexts)
    return _Level(
        keys=keys,
        discounted=(counts - taken) / total[context],
        backoff=np.divide(left_over, total, out=np.ones(contexts), where=total > 0),
    )


def _unigram(counts: Array) -> Reals:
    """Discounted, and what that leaves spread evenly over the vocabulary."""
    taken = np.array([0.0, *discounts(counts)])[np.minimum(counts, 3)]
    probabilities: Reals = (counts - taken + taken.sum() / len(counts)) / counts.sum()
    return probabilities
