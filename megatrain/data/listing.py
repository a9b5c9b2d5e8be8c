"""Samples listed: what each sample of a global batch is, and where in the shards it lies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from megatrain.data.order import SampleOrder
from megatrain.data.rows import Ints
from megatrain.data.training import TrainingSamples


@dataclass(frozen=True)
class ListedSample:
    """One sample of a run: the `window` (or packed row) of its source, in which epoch of it, and the tokens
    [first, last) of a shard that it is made of."""

    sample: int
    source: str
    epoch: int
    window: int
    shard: str
    spans: tuple[tuple[int, int], ...]

    def text(self) -> str:
        """The whole in a line; of the tokens the first and the last, as `data inspect` tells them."""
        spans = " ".join(f"{first}-{last - 1}" for first, last in self.spans)
        return f"{self.sample} {self.source} {self.epoch} {self.window} {self.shard} {spans}"


def listed(samples: TrainingSamples, order: SampleOrder, ids: Ints) -> list[ListedSample]:
    """Samples by their global numbers, in the order asked for. Reads no tokens."""
    found = order.find(ids)
    rows: dict[int, ListedSample] = {}
    for which, source in enumerate(order.sources):
        here = np.flatnonzero(found.source == which)
        dataset, pieces = samples.locate(source, found.window[here])
        for at, number in enumerate(here.tolist()):
            mine = np.flatnonzero(pieces.row == at)
            shard = dataset.manifest.shards[int(pieces.shard[mine[0]])].name
            first = pieces.start[mine]
            spans = zip(first.tolist(), (first + pieces.length[mine]).tolist(), strict=True)
            rows[number] = ListedSample(
                int(ids[number]),
                source,
                int(found.epoch[number]),
                int(found.window[number]),
                f"{dataset.files.folder}/{shard}",
                tuple(spans),
            )
    return [rows[number] for number in range(len(ids))]


def table(rows: Iterable[ListedSample]) -> str:
    """One line each, under a line that names the columns."""
    return "\n".join(["sample source epoch window shard tokens", *(row.text() for row in rows)])
