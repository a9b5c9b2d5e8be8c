"""The training of a word n-gram model on texts that are as the wanted ones should be."""

from collections.abc import Iterable

import numpy as np

from data_tools.ngram_model import NgramModel, Table, model_words, ngram_hashes
from data_tools.words import Hashes
from megatrain.errors import require

_CALIBRATING = 10


def train_ngram_model(
    texts: Iterable[str],
    *,
    calibrating: Iterable[str] | None = None,
    order: int = 3,
    max_words: int = 10_000_000,
) -> NgramModel:
    """A model of the texts, of the first `max_words` in them (about 60 bytes of memory a word).

    Its percentiles are of the perplexities of the `calibrating` texts, such as a sample of the crawl that is
    to be filtered; without any, of every tenth of `texts`, which is then kept out of the training. Raises
    UserError where there are too few texts.
    """
    require(order >= 1, f"a model of n-grams needs an order of at least 1 (given: {order})")
    training: list[Hashes] = []
    held_out: list[Hashes] = []
    read = 0
    for number, text in enumerate(texts):
        words = model_words(text)
        if not len(words):
            continue
        (held_out if calibrating is None and number % _CALIBRATING == 0 else training).append(words)
        read += len(words)
        if read >= max_words:
            break
    if calibrating is not None:
        held_out = [words for text in calibrating if len(words := model_words(text))]
    require(training and held_out, "a model of n-grams needs at least two texts with words in them")
    model = _count(training, order)
    perplexities = [model.perplexity(words) for words in held_out]
    return NgramModel(model.grams, model.contexts, np.percentile(perplexities, np.arange(101)))


def _count(texts: list[Hashes], order: int) -> NgramModel:
    lengths = np.array([len(words) for words in texts])
    firsts = np.cumsum(lengths) - lengths
    pairs: list[tuple[Table, Table]] = []
    lower: tuple[Hashes, Hashes] | None = None
    for context, gram in ngram_hashes(np.concatenate(texts), order, firsts):
        if lower is not None:
            # Kneser and Ney: a shorter n-gram counts once for each word that it is seen after.
            distinct = np.unique(gram, return_index=True)[1]
            pairs.append(_smoothed(lower[0][distinct], lower[1][distinct]))
        lower = context, gram
    assert lower is not None
    pairs.append(_smoothed(*lower))
    return NgramModel(
        tuple(grams for grams, _ in pairs), tuple(contexts for _, contexts in pairs), np.zeros(101)
    )


def _smoothed(context: Hashes, gram: Hashes) -> tuple[Table, Table]:
    """The shares of n-grams in their contexts, less a discount, and what the discount leaves of each context.

    context, gram [occurrences]. The discount is Ney's n1 / (n1 + 2 n2) of n-grams that occur once and twice.
    """
    keys, first, counts = np.unique(gram, return_index=True, return_counts=True)
    once, twice = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    discount = once / (once + 2 * twice) if once and twice else 0.5
    context_keys, of = np.unique(context[first], return_inverse=True)
    totals = np.bincount(of, weights=counts)
    shares = (counts - discount) / totals[of]
    rest = discount * np.bincount(of) / totals
    return Table(keys, shares.astype(np.float32)), Table(context_keys, rest.astype(np.float32))
