"""Hashes of many spans of one array at once."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from megatrain.data.permutation import mix

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

# Odd, without structure, and 3 modulo 4, so that powers repeat as late as they can modulo 2**64.
BASE: Final = 0x9E6C63D0876A9A4B
_INVERSE: Final = pow(BASE, -1, 2**64)


class SpanHasher:
    """Hashes spans by their values in order: sum of value[i] * BASE**i from the span's start, mixed.

    Two spans of the same values hash alike wherever they lie. Keeps the powers that it has needed so far.
    """

    def __init__(self, size: int = 1 << 16) -> None:
        self._powers, self._inverses = _powers(BASE, size), _powers(_INVERSE, size)

    def __call__(self, values: UInts, start: Ints, end: Ints, exponent: Ints | None = None) -> UInts:
        """The hashes [spans] of values[start:end]; `exponent` [values + 1] where it is not the index."""
        largest = len(values) if exponent is None else int(exponent[-1])
        if largest >= len(self._powers):
            self._powers, self._inverses = _powers(BASE, 2 * largest), _powers(_INVERSE, 2 * largest)
        sums = np.zeros(len(values) + 1, np.uint64)
        at_value: Ints | slice = slice(len(values)) if exponent is None else exponent[:-1]
        np.cumsum(values * self._powers[at_value], out=sums[1:])
        at_start = start if exponent is None else exponent[start]
        return mix((sums[end] - sums[start]) * self._inverses[at_start])


@dataclass(frozen=True)
class Windows:
    """Hashes of runs of units [windows], and where each document's begin [documents + 1]."""

    hashes: UInts
    first: Ints


def hash_windows(hasher: SpanHasher, hashes: UInts, first: Ints, size: int) -> Windows:
    """Every run of `size` neighbouring units of a document, document after document.

    A shorter document is one window, all of it; one without units has none. `first` [documents + 1] says
    where each document's units begin in `hashes`.
    """
    count = np.diff(first)
    windows = np.where(count >= size, count - size + 1, np.minimum(count, 1))
    window_first = np.concatenate([[0], np.cumsum(windows)])
    start = np.arange(window_first[-1]) + np.repeat(first[:-1] - window_first[:-1], windows)
    end = np.minimum(start + size, np.repeat(first[1:], windows))
    return Windows(hasher(hashes, start, end), window_first)


def _powers(base: int, size: int) -> UInts:
    powers = np.full(size, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)
