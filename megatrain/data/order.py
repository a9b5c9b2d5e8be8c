"""The order of samples as a function: which sample of which source is sample i, at any i."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.permutation import BlockShuffle, UInts, mix, permute
from megatrain.errors import require

BLOCK = 65_536
_VERSION = 1
_TABLES_KEPT = 4

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Located:
    """Samples found: `source` indexes SampleOrder.sources; `window` is within it; `epoch` counts from 0."""

    source: Ints
    window: Ints
    epoch: Ints


@dataclass(frozen=True)
class Phase:
    """Weights that hold from sample `first` on; None means in proportion to the sizes of all sources."""

    first: int
    weights: Mapping[str, float] | None


@dataclass(frozen=True)
class _Mixing:
    """A phase as it is computed with: `before` counts the samples of each source in all phases before."""

    first: int
    slots: Ints
    before: Ints
    key: int


@dataclass(frozen=True)
class _Block:
    """One block's slots [BLOCK]: whose each is, and its rank among that source's slots of the block."""

    source: Ints
    rank: Ints


class SampleOrder:
    """Sample i of a run, as a pure function of (sizes, weights by phase, shuffle, seed, i).

    Weights are quantised once to n_s / 65,536 (they sum exactly). Each block of 65,536 samples of a phase
    holds n_s samples of source s, shuffled; the k-th sample of a source, counted through all phases, goes to
    epoch k // size and there through that epoch's permutation. So each epoch of a source takes each window
    exactly once, and is over before the next begins, whatever the phases. Nothing grows with the data or the
    run; only a few blocks' slots are kept.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        weights: Mapping[str, float] | None,
        seed: int,
        *,
        later: Sequence[Phase] = (),
        shuffle: BlockShuffle | None = None,
    ) -> None:
        """`sizes` gives the samples of each source, `weights` those of the first phase; `later` the others.

        Raises UserError naming a source that is unknown, has no sample, or too small a weight for one slot.
        """
        require(sizes, "data: the dataset has no source; add one to data.sources")
        phases = (Phase(0, weights), *later)
        assert all(one.first < other.first for one, other in pairwise(phases))
        drawn = _drawn(sizes, phases)
        self.sources = tuple(sorted(drawn))
        self.sizes = tuple(int(drawn[name]) for name in self.sources)
        self._shuffle, self._seed = shuffle, seed
        self._window_keys = [_key(seed, "windows", name) for name in self.sources]
        self._table = lru_cache(_TABLES_KEPT)(self._shuffled_block)
        self._mixings: list[_Mixing] = []
        before = np.zeros(len(self.sources), np.int64)
        for number, phase in enumerate(phases):
            if number:
                before = before + self._taken(number - 1, phase.first - phases[number - 1].first)
            key = _key(seed, "mix", str(number) if number else "")
            self._mixings.append(_Mixing(phase.first, self._slots_of(phase), before, key))
        self._firsts = np.array([mixing.first for mixing in self._mixings])

    @property
    def slots(self) -> tuple[int, ...]:
        """Of each source in the first phase, out of 65,536."""
        return tuple(self._mixings[0].slots.tolist())

    @property
    def fingerprint(self) -> str:
        """The hash of all that decides the order."""
        decides: list[object] = [_VERSION, BLOCK, self.sources, self.sizes, self.slots, self._seed]
        # What came later stands here only where it is used: the order of older runs keeps its name.
        if len(self._mixings) > 1:
            decides.append(["phases", [[m.first, m.slots.tolist()] for m in self._mixings[1:]]])
        if self._shuffle is not None:
            decides.append(["blocks", self._shuffle.block, self._shuffle.window])
        return xxhash.xxh3_128_hexdigest(json.dumps(decides).encode())

    def locate(self, start: int, count: int) -> Located:
        """Samples start .. start + count - 1."""
        return self.find(np.arange(start, start + count, dtype=np.int64))

    def find(self, samples: Ints) -> Located:
        """Any samples [count]; the same whatever the others they are asked with."""
        source, number = self._numbers(samples)
        epoch, window = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for which, size in enumerate(self.sizes):
            here = source == which
            if not here.any():
                continue
            epoch[here] = epochs = number[here] // size
            if epochs.min() == epochs.max():
                epochs = epochs[:1]
            keys = mix(np.uint64(self._window_keys[which]) ^ mix(epochs.astype(np.uint64)))
            window[here] = self._permute(number[here] % size, size, keys)
        return Located(source, window, epoch)

    def drawn(self, count: int) -> dict[str, int]:
        """Return how many of the first `count` samples are of each source."""
        totals = dict.fromkeys(self.sources, 0)
        for number, mixing in enumerate(self._mixings):
            last = self._mixings[number + 1].first if number + 1 < len(self._mixings) else count
            blocks, rest = divmod(max(0, min(last, count) - mixing.first), BLOCK)
            begun = np.bincount(
                self._table(number, 0 if not rest else blocks).source[:rest], minlength=len(totals)
            )
            for which, name in enumerate(self.sources):
                totals[name] += blocks * int(mixing.slots[which]) + int(begun[which])
        return totals

    def _numbers(self, samples: Ints) -> tuple[Ints, Ints]:
        """The source of each sample, and how many of that source come before it."""
        phases = np.searchsorted(self._firsts, samples, side="right") - 1
        blocks, slots = np.divmod(samples - self._firsts[phases], BLOCK)
        source, number = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for phase in np.unique(phases).tolist():
            mixing = self._mixings[phase]
            for block in np.unique(blocks[phases == phase]).tolist():
                here = (phases == phase) & (blocks == block)
                table = self._table(phase, block)
                source[here] = owner = table.source[slots[here]]
                number[here] = mixing.before[owner] + block * mixing.slots[owner] + table.rank[slots[here]]
        return source, number

    def _taken(self, phase: int, count: int) -> Ints:
        """How many samples of each source the first `count` samples of a phase hold."""
        blocks, rest = divmod(count, BLOCK)
        last = np.bincount(self._table(phase, blocks).source[:rest], minlength=len(self.sources))
        taken: Ints = blocks * self._mixings[phase].slots + last
        return taken

    def _slots_of(self, phase: Phase) -> Ints:
        sizes = dict(zip(self.sources, self.sizes, strict=True))
        weights = sizes if phase.weights is None else phase.weights
        names = [name for name in self.sources if name in weights]
        slots = dict(zip(names, quantise({name: weights[name] for name in names}), strict=True))
        return np.array([slots.get(name, 0) for name in self.sources], np.int64)

    def _shuffled_block(self, phase: int, block: int) -> _Block:
        mixing = self._mixings[phase]
        key = mix(np.uint64(mixing.key) ^ mix(np.array([block], np.uint64)))
        shuffled = permute(np.arange(BLOCK), BLOCK, key)
        source = np.searchsorted(np.cumsum(mixing.slots), shuffled, side="right")
        rank = np.empty(BLOCK, np.int64)
        for which, count in enumerate(mixing.slots.tolist()):
            rank[source == which] = np.arange(count)
        return _Block(source.astype(np.int64), rank)

    def _permute(self, index: Ints, size: int, key: UInts) -> Ints:
        return permute(index, size, key) if self._shuffle is None else self._shuffle.permute(index, size, key)


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


def _drawn(sizes: Mapping[str, int], phases: Sequence[Phase]) -> dict[str, int]:
    """The sizes of the sources that some phase draws from; each must be known and have a sample."""
    names: dict[str, None] = {}
    for phase in phases:
        weights = sizes if phase.weights is None else phase.weights
        require(weights, "data: no source has a weight; give one, or leave the weights out")
        for name in weights:
            require(
                name in sizes,
                f"data: source {name!r} has a weight but no data; there is {', '.join(sizes)}",
            )
        names |= dict.fromkeys(weights)
    for name in names:
        require(
            sizes[name] > 0,
            f"data: source {name!r} is smaller than one sample (sequence length + 1 tokens); "
            "add text or lower data.sequence_length",
        )
    return {name: sizes[name] for name in names}


def _key(seed: int, purpose: str, source: str) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps([seed, purpose, source]).encode())
