"""The order of samples as a function: which window of which source is sample i, at any i."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.permutation import mix, permute
from megatrain.errors import require

BLOCK = 65_536
_VERSION = 1

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Located:
    """Samples found: `source` indexes SampleOrder.sources; `window` is within it; `epoch` counts from 0."""

    source: Ints
    window: Ints
    epoch: Ints


@dataclass(frozen=True)
class _Block:
    """One block's slots [BLOCK]: whose each is, and its rank among that source's slots of the block."""

    number: int
    source: Ints
    rank: Ints


class SampleOrder:
    """Sample i of a run, as a pure function of (sizes, weights, seed, i).

    Weights are quantised once to n_s / 65,536 (they sum exactly). Each block of 65,536 samples holds n_s
    samples of source s, shuffled; the k-th sample of a source goes to epoch k // size and there through
    that epoch's permutation. So each epoch of a source takes each window exactly once, and is over before
    the next begins. Nothing grows with the data or the run; only the current block's slots are kept.
    """

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float] | None, seed: int) -> None:
        """`sizes` gives the windows of each source; weights None means in proportion to them.

        Raises UserError naming a source that is unknown, has no window, or too small a weight for one slot.
        """
        require(sizes, "data: the dataset has no source; add one to data.sources")
        if weights is not None:
            for name in weights:
                require(
                    name in sizes,
                    f"data: source {name!r} has a weight but no data; there is {', '.join(sizes)}",
                )
            sizes = {name: size for name, size in sizes.items() if name in weights}
            require(sizes, "data: no source has a weight; give one, or leave the weights out")
        for name, size in sizes.items():
            require(
                size > 0,
                f"data: source {name!r} is smaller than one sample (sequence length + 1 tokens); "
                "add text or lower data.sequence_length",
            )
        self.sources = tuple(sorted(sizes))
        self.sizes = tuple(int(sizes[name]) for name in self.sources)
        chosen = dict(sizes) if weights is None else dict(weights)
        self.slots = quantise({name: chosen[name] for name in self.sources})
        self._seed = seed
        self._mix_key = _key(seed, "mix", "")
        self._window_keys = [_key(seed, "windows", name) for name in self.sources]
        self._block: _Block | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of all that decides the order."""
        decides = [_VERSION, BLOCK, self.sources, self.sizes, self.slots, self._seed]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides).encode())

    def locate(self, start: int, count: int) -> Located:
        """Samples start .. start + count - 1."""
        return self.find(np.arange(start, start + count, dtype=np.int64))

    def find(self, samples: Ints) -> Located:
        """Any samples [count]; the same whatever the others they are asked with."""
        count = len(samples)
        blocks, slots = samples // BLOCK, samples % BLOCK
        source, number = np.empty(count, np.int64), np.empty(count, np.int64)
        per_block = np.array(self.slots, np.int64)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            table = self._table(block)
            source[here] = owner = table.source[slots[here]]
            number[here] = block * per_block[owner] + table.rank[slots[here]]
        epoch, window = np.empty(count, np.int64), np.empty(count, np.int64)
        for which, size in enumerate(self.sizes):
            here = source == which
            epoch[here] = epochs = number[here] // size
            keys = mix(np.uint64(self._window_keys[which]) ^ mix(epochs.astype(np.uint64)))
            window[here] = permute(number[here] % size, size, keys)
        return Located(source, window, epoch)

    def _table(self, block: int) -> _Block:
        kept = self._block  # One read of the attribute: another thread may put another block there.
        if kept is None or kept.number != block:
            kept = self._block = _shuffled_block(block, self._mix_key, self.slots)
        return kept


def quantise(weights: Mapping[str, float]) -> tuple[int, ...]:
    """Slots of each source out of 65,536, by largest remainders, in the mapping's order; they sum exactly.

    Raises UserError naming a weight that is negative, not finite, or too small for one slot.
    """
    for name, weight in weights.items():
        require(
            weight > 0 and np.isfinite(weight),
            f"data: the weight of source {name!r} ({weight}) must be above 0",
        )
    total = sum(Fraction(weight) for weight in weights.values())
    exact = [Fraction(weight) * BLOCK / total for weight in weights.values()]
    slots = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (slots[i] - exact[i], i))
    for i in by_remainder[: BLOCK - sum(slots)]:
        slots[i] += 1
    for name, count in zip(weights, slots, strict=True):
        require(
            count > 0,
            f"data: the weight of source {name!r} ({weights[name]} of {float(total)}) is "
            f"below 1/{2 * BLOCK:,}: too small for one slot; raise it, or merge the source with another",
        )
    return tuple(slots)


def _shuffled_block(block: int, mix_key: int, slots: tuple[int, ...]) -> _Block:
    key = mix(np.uint64(mix_key) ^ mix(np.array([block], np.uint64)))
    shuffled = permute(np.arange(BLOCK), BLOCK, key)
    source = np.searchsorted(np.cumsum(slots), shuffled, side="right")
    rank = np.empty(BLOCK, np.int64)
    for which, count in enumerate(slots):
        rank[source == which] = np.arange(count)
    return _Block(block, source.astype(np.int64), rank)


def _key(seed: int, purpose: str, source: str) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps([seed, purpose, source]).encode())
