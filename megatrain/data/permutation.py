"""A permutation of range(n) that is computed, not stored: any element in O(1) time and memory."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
_ROUNDS: Final = 8


def mix(x: UInts) -> UInts:
    """A 64-bit hash of 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: npt.NDArray[np.int64], size: int, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Where the permutation of range(size) that `key` chooses takes each index.

    `key` broadcasts against `index`. A Feistel network over Z_a x Z_b with a * b just above `size`, and
    cycle walking for the few that fall outside (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002). Needs 0 <= index < size <= 2**62.
    """
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    x = index.astype(np.uint64)
    keys = np.broadcast_to(key, x.shape)
    x = _feistel(x, a, b, keys)
    outside = np.flatnonzero(x >= size)
    while len(outside):
        x[outside] = _feistel(x[outside], a, b, keys[outside])
        outside = outside[x[outside] >= size]
    return x.astype(np.int64)


def _feistel(x: UInts, a: int, b: int, key: UInts) -> UInts:
    left, right = x // np.uint64(b), x % np.uint64(b)
    for number in range(0, _ROUNDS, 2):
        left = (left + _round(right, key, number)) % np.uint64(a)
        right = (right + _round(left, key, number + 1)) % np.uint64(b)
    return left * np.uint64(b) + right


def _round(half: UInts, key: UInts, number: int) -> UInts:
    # The top bit is dropped so that the sum in _feistel cannot overflow.
    round_key = mix(key + np.uint64(number))
    return mix(half ^ round_key) >> np.uint64(1)
