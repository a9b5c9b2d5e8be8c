"""MinHash signatures: documents that share a band key are near duplicates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data_tools.duplicates.hashing import Ints, SpanHasher, UInts, Windows, hash_windows
from data_tools.duplicates.settings import Near
from data_tools.duplicates.units import Splitter
from megatrain.data.permutation import mix

# The band key of a document without a single unit, which is like no other.
NO_KEY: Final = np.uint64(0)
# Permuted n-grams at once, a band's rows together: they stay in the processor's second cache.
_BLOCK: Final = 1 << 17


class Signer:
    """Signs documents as a `Near` section says; a pure function of each text."""

    def __init__(self, near: Near) -> None:
        self._near = near
        self._split = Splitter(near.unit, near.numbers)
        self._hasher = SpanHasher()
        size = near.bands * (near.rows + 1)
        odd = mix(np.arange(size, dtype=np.uint64) + mix(np.array([near.seed], np.uint64))) | np.uint64(1)
        self._permutation = odd[: near.bands * near.rows].reshape(near.bands, near.rows)
        self._band = odd[near.bands * near.rows :]
        self._dtype: type[np.unsignedinteger[Any]] = np.uint64 if near.bits == 64 else np.uint32

    def band_keys(self, texts: Sequence[str]) -> UInts:
        """The key of each band of each document [documents, bands]; NO_KEY all along for one without units.

        Fastest with some hundred documents at once.
        """
        units = self._split(texts)
        ngrams = hash_windows(self._hasher, units.hash, units.first, self._near.ngram)
        keys = np.full((len(texts), self._near.bands), NO_KEY)
        signed = np.flatnonzero(np.diff(ngrams.first))
        if not len(signed):
            return keys
        blocks = list(self._blocks(ngrams))
        sums = np.empty((len(signed), self._near.bands), np.uint64)
        for band, factors in enumerate(self._permutation):
            minima = self._minima(blocks, factors, len(signed)).astype(np.uint64, copy=False)
            sums[:, band] = (minima * factors[:, None]).sum(axis=0)
        keys[signed] = np.maximum(mix(sums + self._band), NO_KEY + np.uint64(1))
        return keys

    def _blocks(self, ngrams: Windows) -> "Iterator[_Block]":
        """The n-grams in blocks; a document may span several."""
        hashes = ngrams.hashes if self._near.bits == 64 else (ngrams.hashes >> np.uint64(32))
        hashes = hashes.astype(self._dtype, copy=False)
        first = ngrams.first[:-1][np.diff(ngrams.first) > 0]
        size = max(_BLOCK // self._near.rows, 1)
        for begin in range(0, len(hashes), size):
            end = min(begin + size, len(hashes))
            low = int(np.searchsorted(first, begin, side="right")) - 1
            high = int(np.searchsorted(first, end))
            yield _Block(hashes[begin:end], np.maximum(first[low:high] - begin, 0), slice(low, high))

    def _minima(self, blocks: "Sequence[_Block]", factors: UInts, documents: int) -> npt.NDArray[Any]:
        """The least of each document's permuted n-grams, for each permutation of a band [rows, documents].

        A permutation multiplies by an odd number: one to one modulo 2**bits, and the high bits, which decide
        the least, depend on all others.
        """
        minima = np.full((len(factors), documents), np.iinfo(self._dtype).max, self._dtype)
        column = factors.astype(self._dtype)[:, None]
        permuted = np.empty((len(factors), max(len(block.hashes) for block in blocks)), self._dtype)
        for block in blocks:
            here = permuted[:, : len(block.hashes)]
            np.multiply(block.hashes, column, out=here)
            of_block = minima[:, block.documents]
            np.minimum(of_block, np.minimum.reduceat(here, block.first, axis=1), out=of_block)
        return minima


@dataclass(frozen=True)
class _Block:
    """Some n-grams, where each document's begin among them, and which documents those are."""

    hashes: npt.NDArray[Any]
    first: Ints
    documents: slice
