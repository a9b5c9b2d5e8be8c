"""Batches: what one rank takes through the model, cut from rows of tokens."""

# Shapes: R rows of this rank, B rows of a micro-batch, S sequence length.

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

PADDING = -1
Ints = npt.NDArray[np.int64]


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


def make_batch(tokens: npt.NDArray[Any], real: Ints, *, eos_id: int, document_mask: bool) -> Batch:
    """Cut rows [B, S + 1] of any integer type into tokens and the labels that follow them.

    Of a row the first `real` [B] tokens count; the labels behind them are masked. With `document_mask`,
    positions restart at 0 after each EOS and the label that crosses one is masked.
    """
    width = tokens.shape[1] - 1
    whole = torch.from_numpy(tokens.astype(np.int64))
    if document_mask:
        is_eos = tokens[:, :-1] == eos_id
        loss_mask, positions = ~is_eos, torch.from_numpy(_positions(is_eos))
    else:
        loss_mask = np.ones((len(tokens), width), np.bool_)
        positions = _steps(width).expand(len(tokens), width)
    for row in np.flatnonzero(real <= width).tolist():
        loss_mask[row, max(0, int(real[row]) - 1) :] = False
    return Batch(
        tokens=whole[:, :-1],
        labels=whole[:, 1:],
        positions=positions,
        loss_mask=torch.from_numpy(loss_mask),
        valid_tokens=int(np.count_nonzero(loss_mask)),
    )


def _positions(is_eos: npt.NDArray[np.bool_]) -> Ints:
    """Counts from 0 in each row [B, S], and again from 0 behind each end of a document."""
    count, width = is_eos.shape
    ends = np.flatnonzero(is_eos) + 1
    begins = np.concatenate([ends[ends % width != 0], np.arange(1, count + 1) * width])
    begins.sort()
    positions = np.empty(count * width, np.int64)
    # By memoryviews: for such short runs numpy's own slices take twice the time.
    out, steps, first = positions.data, _steps(width).numpy().data, 0
    for last in begins.tolist():
        out[first:last] = steps[: last - first]
        first = last
    return positions.reshape(count, width)


@lru_cache(8)
def _steps(width: int) -> torch.Tensor:
    return torch.arange(width)
