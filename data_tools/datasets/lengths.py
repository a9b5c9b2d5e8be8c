"""How long documents are, as counts of each length: exact quantiles and histograms in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data_tools.datasets.shards import Ints


@dataclass(frozen=True)
class LengthCounts:
    """`lengths` in rising order, and how many documents have each.

    Documents of n different lengths hold n² / 2 tokens at least: those of a trillion tokens fit into 23 MB.
    """

    lengths: Ints
    counts: Ints

    @classmethod
    def of(cls, lengths: Ints) -> LengthCounts:
        """Count the lengths of documents [documents]."""
        values, counts = np.unique(lengths, return_counts=True)
        return cls(values, counts)

    @classmethod
    def sum_of(cls, parts: Iterable[LengthCounts]) -> LengthCounts:
        """The counts of all parts together."""
        total = cls(np.empty(0, np.int64), np.empty(0, np.int64))
        for part in parts:
            values = np.union1d(total.lengths, part.lengths)
            counts = np.zeros(len(values), np.int64)
            for one in (total, part):
                counts[np.searchsorted(values, one.lengths)] += one.counts
            total = cls(values, counts)
        return total

    @property
    def documents(self) -> int:
        return int(self.counts.sum())

    @property
    def tokens(self) -> int:
        return int(self.lengths @ self.counts)

    def quantile(self, share: float) -> int:
        """The smallest length that at least this share of the documents does not exceed."""
        ends = np.cumsum(self.counts)
        return int(self.lengths[np.searchsorted(ends, max(1, np.ceil(share * ends[-1])))])

    def octaves(self) -> dict[int, tuple[int, int]]:
        """Documents and tokens by power of two: those of lengths [2^k, 2^(k+1)), for each k from the shortest
        document's to the longest's."""
        powers = np.frexp(self.lengths.astype(np.float64))[1] - 1
        found = {}
        for power in range(int(powers[0]), int(powers[-1]) + 1):
            here = powers == power
            counts = self.counts[here]
            found[power] = (int(counts.sum()), int(self.lengths[here] @ counts))
        return found
