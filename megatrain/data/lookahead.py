"""Shards on object storage brought near before they are needed: the order says which come next."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from megatrain.data.order import BLOCK, SampleOrder
from megatrain.data.rows import Ints
from megatrain.data.skipped import Ranges, numbered
from megatrain.errors import FailedWork

CHUNK = 4096  # samples looked at together
FARTHEST = 65_536  # samples looked ahead
END_S = 5.0
logger = logging.getLogger(__name__)


class Fetched(Protocol):
    """Samples whose shards can be fetched."""

    def shards_of(self, source: str, ids: Ints, sequence_length: int, /) -> Ints:
        """The number of the shard that each sample [n] of a source lies in."""

    def fetch(self, source: str, shard: int, /) -> bool:
        """Bring a shard near; gives whether it had to be fetched. Raises OSError, FailedWork."""


class Lookahead:
    """Fetches the next `ahead` shards of a rank's own samples, in a thread, from where the batches are."""

    def __init__(
        self,
        samples: Fetched,
        order: SampleOrder,
        *,
        rows: Ints,
        global_batch: int,
        sequence_length: int,
        ahead: int,
    ) -> None:
        """`rows` are those of each global batch that the rank reads."""
        assert ahead > 0 and len(rows)
        self._samples, self._order, self._rows = samples, order, rows
        self._global_batch, self._sequence_length, self._ahead = global_batch, sequence_length, ahead
        self._farthest = max(FARTHEST, 8 * global_batch)
        self._moved = threading.Condition()
        self._place: tuple[int, Ranges] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="lookahead", daemon=True)
        self._thread.start()

    def reached(self, number: int, skipped: Ranges) -> None:
        """Up to which sample, of those that are not skipped, the batches are made by now."""
        with self._moved:
            self._place = (number, skipped)
            self._moved.notify()

    def close(self) -> None:
        """End the thread; a fetch that is under way may go on for a while."""
        with self._moved:
            self._closed = True
            self._moved.notify()
        self._thread.join(END_S)

    def _run(self) -> None:
        begun: tuple[int, Ranges] | None = None
        upcoming: Iterator[tuple[int, str, int]] = iter(())
        unused: deque[int] = deque()  # where what was fetched is needed first
        at = 0
        while True:
            with self._moved:
                while not self._closed and not self._has_work(begun, unused, at):
                    self._moved.wait()
                if self._closed:
                    return
                assert self._place is not None
                place = self._place
            if begun is None or self._jumped(place, begun, at):
                begun, at, upcoming = place, place[0], self._upcoming(*place)
                unused.clear()
            at, source, shard = next(upcoming)
            if at >= place[0] and self._fetch(source, shard):
                unused.append(at)

    def _has_work(self, begun: tuple[int, Ranges] | None, unused: deque[int], at: int) -> bool:
        if self._place is None:
            return False
        if begun is None or self._jumped(self._place, begun, at):
            return True
        reached = self._place[0]
        while unused and unused[0] < reached:
            unused.popleft()
        return len(unused) < self._ahead and at <= reached + self._farthest

    def _jumped(self, place: tuple[int, Ranges], begun: tuple[int, Ranges], at: int) -> bool:
        """Whether training is not where it would be if it had gone on from where the thread began."""
        number, skipped = place
        return skipped != begun[1] or not begun[0] <= number <= at + self._farthest

    def _fetch(self, source: str, shard: int) -> bool:
        try:
            return self._samples.fetch(source, shard)
        except (OSError, FailedWork) as error:  # who reads the shard tries again, and tells
            logger.warning("shard %d of source %s cannot be fetched ahead: %s", shard, source, error)
            return False

    def _upcoming(self, number: int, skipped: Ranges) -> Iterator[tuple[int, str, int]]:
        """The shards of the samples from here on, each once in a chunk: when first needed, source, number."""
        steps = max(1, min(CHUNK // max(1, len(self._rows)), BLOCK // self._global_batch))
        span = steps * self._global_batch
        while True:
            begins = number + self._global_batch * np.arange(steps, dtype=np.int64)
            numbers = (begins[:, None] + self._rows).reshape(-1)
            found = self._order.find(numbered(numbers, skipped))
            firsts: list[tuple[int, str, int]] = []
            for which, source in enumerate(self._order.sources):
                here = np.flatnonzero(found.source == which)
                shards = self._samples.shards_of(source, found.window[here], self._sequence_length)
                each, first = np.unique(shards, return_index=True)
                firsts += [
                    (int(numbers[here[at]]), source, int(shard))
                    for at, shard in zip(first, each, strict=True)
                ]
            yield from sorted(firsts)
            number += span
