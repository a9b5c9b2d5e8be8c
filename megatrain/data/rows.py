"""Rows of tokens on their way from shards to a batch: what goes into them, and the memory they are read
into."""

# Shapes: R rows, W tokens of a row (sequence length + 1), P pieces.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """Runs of tokens [P] that rows are made of: `length` tokens of shard number `shard`, from its token
    `start` on, go to place `at` of row `row`."""

    row: Ints
    at: Ints
    shard: Ints
    start: Ints
    length: Ints


class Rows:
    """Memory for rows, used again for each batch: `tokens` [R, W] as the shards store them, and how many of
    each are real [R]; the rest is padding."""

    def __init__(self, count: int, width: int, dtype: np.dtype[Any], padding: int) -> None:
        self.tokens = np.empty((count, width), dtype)
        self.real = np.zeros(count, np.int64)
        self._padding = padding
        size = width * dtype.itemsize
        whole = self.tokens.data.cast("B") if count else memoryview(b"")
        self.views = [whole[row * size : (row + 1) * size] for row in range(count)]

    def clear(self) -> None:
        """All padding."""
        self.tokens.fill(self._padding)
        self.real.fill(0)
