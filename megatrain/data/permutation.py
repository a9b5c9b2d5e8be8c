"""Permutations of range(n) that are computed, not stored: any element in O(1) time and memory."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
_ROUNDS: Final = 8


def mix(x: UInts) -> UInts:
    """A 64-bit hash of 64-bit numbers: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def permute(index: Ints, size: int, key: UInts) -> Ints:
    """Where the permutation of range(size) that `key` chooses takes each index.

    `key` broadcasts against `index`. A Feistel network over Z_a x Z_b with a * b just above `size`, and
    cycle walking for the few that fall outside (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002). Needs 0 <= index < size <= 2**62.
    """
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    key = np.atleast_1d(key)  # One key is hashed once, not for each index.
    x = _feistel(index.astype(np.uint64), a, b, key)
    outside = np.flatnonzero(x >= size)
    while len(outside):
        x[outside] = _feistel(x[outside], a, b, key if key.size == 1 else key[outside])
        outside = outside[x[outside] >= size]
    return x.astype(np.int64)


@dataclass(frozen=True)
class BlockShuffle:
    """A shuffle that reads near places at near times: blocks of `block` neighbours in random order, and the
    samples of each `window` blocks among themselves."""

    block: int
    window: int

    def permute(self, index: Ints, size: int, key: UInts) -> Ints:
        """Like `permute`, of this kind.

        What is left of range(size) after the whole blocks is a block too, at a place of its own by the key.
        """
        key = np.atleast_1d(key)
        position = self._within_windows(index, size, key)
        blocks, rest = divmod(size, self.block)
        short = (mix(_other(key, 1)) % np.uint64(blocks + 1)).astype(np.int64) * self.block
        in_short = (position >= short) & (position < short + rest)
        number, offset = np.divmod(np.where(position < short, position, position - rest), self.block)
        found = blocks * self.block + position - short
        if blocks:
            whole = permute(np.where(in_short, 0, number), blocks, _other(key, 2)) * self.block + offset
            found = np.where(in_short, found, whole)
        return found

    def _within_windows(self, index: Ints, size: int, key: UInts) -> Ints:
        length = self.block * self.window
        window = index // length
        keys = mix(_other(key, 3) ^ mix(window.astype(np.uint64)))
        last = size // length
        found = np.empty_like(index)
        for here, span in ((window < last, length), (window >= last, size - last * length)):
            if here.any():
                begins = window[here] * length
                found[here] = begins + permute(index[here] - begins, span, keys[here])
        return found


def _other(key: UInts, number: int) -> UInts:
    """A key for another purpose."""
    return mix(key ^ mix(np.array([number], np.uint64)))


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
