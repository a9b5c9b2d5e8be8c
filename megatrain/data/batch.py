"""Batches: what one rank takes through the model, cut from rows of tokens."""

# Shapes: R rows of this rank, B rows of a micro-batch, S sequence length.

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatrain.data.documents import Documents

PADDING = -1
Ints = npt.NDArray[np.int64]
Arrays = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one rank: `tokens`, `labels`, `positions` int64 and `loss_mask` bool, all [B, S].

    They may share memory: do not write into them. `valid_tokens` is the number of labels that the mask lets
    through.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    loss_mask: torch.Tensor
    valid_tokens: int

    def split(self, rows: int) -> tuple[Batch, ...]:
        """So many rows each, in order; `rows` divides their number."""
        if rows == len(self.tokens):
            return (self,)
        begins = range(0, len(self.tokens), rows)
        shape = (len(begins), rows, self.tokens.shape[1])
        if self.valid_tokens == self.loss_mask.numel():
            valid = [rows * self.loss_mask.shape[1]] * len(begins)
        else:
            mask = self.loss_mask.numpy()
            valid = [int(np.count_nonzero(mask[at : at + rows])) for at in begins]
        columns = (self.tokens, self.labels, self.positions, self.loss_mask)
        parts = (column.view(shape).unbind() for column in columns)  # the fastest of torch's ways
        return tuple(Batch(*part) for part in zip(*parts, valid, strict=True))


@dataclass(frozen=True)
class RankBatch:
    """This rank's part of one global batch; every rank has the same number of micro-batches.

    `sample_ids` [R] are the global sample numbers of the rows, -1 for padding; `valid_tokens` counts this
    rank's; `wait_s` is how long the caller was kept waiting.
    """

    micro_batches: tuple[Batch, ...]
    sample_ids: Ints
    valid_tokens: int
    wait_s: float


def rows_of_rank(count: int, micro_batch: int, dp_rank: int, dp_size: int) -> Ints:
    """Which of `count` rows a rank takes, micro-batch by micro-batch; -1 for padding [R].

    Micro-batch a of rank r holds rows (a * dp_size + r) * micro_batch onwards: whatever dp_size, together
    the ranks take each row once, and all have ceil(count / (dp_size * micro_batch)) micro-batches.
    """
    steps = -(-count // (dp_size * micro_batch))
    rows = np.arange(steps * dp_size * micro_batch, dtype=np.int64).reshape(steps, dp_size, micro_batch)
    mine = rows[:, dp_rank].reshape(-1)
    return np.where(mine < count, mine, PADDING)


class Memory:
    """Arrays for batches of one shape, used again once nobody holds the batch.

    To get such memory from the system for each batch anew takes more time than to fill it.
    """

    def __init__(self, rows: int, width: int) -> None:
        self._shapes = [((rows, width + 1), np.int64), ((rows, width), np.int64), ((rows, width), np.bool_)]
        self._made: list[tuple[Arrays, list[int]]] = []

    def take(self) -> Arrays:
        """Rows [R, S + 1], positions [R, S], mask [R, S]; not initialised."""
        for arrays, unheld in self._made:
            # A tensor, or a view of one, that lives holds the array that it was made from.
            if _references(arrays) == unheld:
                return arrays
        made: Arrays = tuple(np.empty(shape, dtype) for shape, dtype in self._shapes)
        self._made.append((made, _references(made)))
        return made


def make_batch(
    tokens: npt.NDArray[Any],
    real: Ints | None,
    *,
    eos_id: int,
    documents: Documents,
    memory: Memory | None = None,
) -> Batch:
    """Cut rows [B, S + 1] of any integer type into tokens and the labels that follow them.

    Of a row the first `real` [B] tokens count, all with None; the labels behind them are masked. Unless
    `documents` is "concat", positions restart at 0: at each EOS ("start"), or after it, and then its label
    is masked ("mask").
    """
    count, width = len(tokens), tokens.shape[1] - 1
    rows, positions, mask = (memory or Memory(count, width)).take()
    rows[...] = tokens
    steps, everything = _steps(width).expand(count, width), real is None and documents != "mask"
    if documents != "concat":
        ends = np.equal(tokens[:, :-1], eos_id, out=mask).ravel().nonzero()[0]
        _count_positions(ends if documents == "start" else ends + 1, positions)
        steps = torch.from_numpy(positions)
    if documents == "mask":
        np.logical_not(mask, out=mask)
    elif real is not None:
        mask.fill(True)
    for row in [] if real is None else np.flatnonzero(real <= width).tolist():
        assert real is not None
        mask[row, max(0, int(real[row]) - 1) :] = False
    whole = torch.from_numpy(rows)
    return Batch(
        tokens=whole[:, :-1],
        labels=whole[:, 1:],
        positions=steps,
        loss_mask=_all_true().expand(count, width) if everything else torch.from_numpy(mask),
        valid_tokens=count * width if everything else int(np.count_nonzero(mask)),
    )


def _count_positions(begins: Ints, out: Ints) -> None:
    """Count from 0 in each row [B, S], and again from 0 at each of the places `begins` in the rows joined."""
    count, width = out.shape
    begins = np.concatenate([begins[begins % width != 0], np.arange(width, (count + 1) * width, width)])
    begins.sort()
    # By memoryviews: for such short runs numpy's own slices take twice the time.
    counts, steps, first = out.reshape(-1).data, _steps(width).numpy().data, 0
    for last in begins.tolist():
        counts[first:last] = steps[: last - first]
        first = last


@lru_cache(8)
def _steps(width: int) -> torch.Tensor:
    return torch.arange(width)


@lru_cache(1)
def _all_true() -> torch.Tensor:
    return torch.ones(1, 1, dtype=torch.bool)


def _references(arrays: Arrays) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]
