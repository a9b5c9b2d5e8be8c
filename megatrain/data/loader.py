"""Batches for each data-parallel rank: rows of the global batch, prefetched by one thread."""

# Shapes: G rows of the global batch, R rows of this rank, B rows of a micro-batch, S sequence length.

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from megatrain.data.order import SampleOrder
from megatrain.data.skipped import Ranges, samples
from megatrain.errors import require

PADDING = -1
Ints = npt.NDArray[np.int64]


class Windows(Protocol):
    """What is read from: a TokenDataset, or several under one roof."""

    @property
    def folder(self) -> Path: ...
    @property
    def eos_id(self) -> int: ...
    def windows(self, source: str, sequence_length: int, /) -> int: ...
    def read(self, source: str, window_ids: Ints, sequence_length: int, out: Ints, /) -> None: ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one rank: `tokens`, `labels`, `positions` int64 and `loss_mask` bool, all [B, S].

    `valid_tokens` is the number of labels that the mask lets through.
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


def make_batch(windows: Ints, real: npt.NDArray[np.bool_], *, eos_id: int, document_mask: bool) -> Batch:
    """Cut windows [B, S + 1] into tokens and the labels that follow them.

    With `document_mask`, positions restart at 0 after each EOS and the label that crosses one is masked.
    Rows that are not `real` [B] are masked whole.
    """
    tokens = windows[:, :-1]
    steps = np.arange(tokens.shape[1], dtype=np.int64)
    loss_mask = np.repeat(real[:, None], len(steps), axis=1)
    positions = np.repeat(steps[None], len(tokens), axis=0)
    if document_mask:
        is_eos = tokens == eos_id
        loss_mask &= ~is_eos
        begins = np.zeros_like(positions)
        begins[:, 1:] = np.where(is_eos[:, :-1], steps[1:], 0)
        positions -= np.maximum.accumulate(begins, axis=1)
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(tokens)),
        labels=torch.from_numpy(np.ascontiguousarray(windows[:, 1:])),
        positions=torch.from_numpy(positions),
        loss_mask=torch.from_numpy(loss_mask),
        valid_tokens=int(loss_mask.sum()),
    )


class Loader:
    """Gives a rank its rows of the global batch at any position; holds no position of its own."""

    def __init__(
        self,
        dataset: Windows,
        order: SampleOrder,
        *,
        global_batch: int,
        micro_batch: int,
        dp_rank: int,
        dp_size: int,
        sequence_length: int,
        document_mask: bool,
        prefetch: int,
    ) -> None:
        """`prefetch` is how many global batches are made ahead; 0 means none, and no thread."""
        assert global_batch > 0 and micro_batch > 0 and 0 <= dp_rank < dp_size and prefetch >= 0
        self._dataset, self._order = dataset, order
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._sequence_length, self._document_mask = sequence_length, document_mask
        self._rows = rows_of_rank(global_batch, micro_batch, dp_rank, dp_size)
        self._prefetch = prefetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._ahead: dict[tuple[int, Ranges], Future[RankBatch]] = {}

    @property
    def micro_batches(self) -> int:
        """Micro-batches a global batch: the steps of gradient accumulation, equal on all ranks."""
        return len(self._rows) // self._micro_batch

    def batch(self, consumed_samples: int, skipped: Ranges = ()) -> RankBatch:
        """This rank's rows of the global batch that follows when so many samples that are not skipped were
        taken.

        A position that was not foreseen is computed on the spot. Raises what reading the shards raises.
        """
        began = time.monotonic()
        if self._thread is None:
            made = self._make(consumed_samples, skipped)
        else:
            made = self._from_thread(self._thread, consumed_samples, skipped)
        return RankBatch(made.micro_batches, made.sample_ids, made.valid_tokens, time.monotonic() - began)

    def close(self) -> None:
        """End the thread; what it had made ahead is dropped."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _from_thread(self, thread: ThreadPoolExecutor, consumed_samples: int, skipped: Ranges) -> RankBatch:
        steps = range(self._prefetch + 1)
        wanted = [(consumed_samples + step * self._global_batch, skipped) for step in steps]
        for stale in self._ahead.keys() - set(wanted):
            self._ahead.pop(stale).cancel()
        for position in wanted:
            if position not in self._ahead:
                self._ahead[position] = thread.submit(self._make, *position)
        return self._ahead.pop(wanted[0]).result()

    def _make(self, consumed_samples: int, skipped: Ranges) -> RankBatch:
        ids = samples(consumed_samples, self._global_batch, skipped)
        located = self._order.find(ids)
        rows, real = self._rows, self._rows != PADDING
        # Padding is all EOS: ids that every model knows.
        windows = np.full((len(rows), self._sequence_length + 1), self._dataset.eos_id, np.int64)
        for which, source in enumerate(self._order.sources):
            here = np.flatnonzero(real & (located.source[rows] == which))
            if len(here):
                found = np.empty((len(here), windows.shape[1]), np.int64)
                self._dataset.read(source, located.window[rows[here]], self._sequence_length, found)
                windows[here] = found
        micro = tuple(
            self._cut(windows[at : at + self._micro_batch], real[at : at + self._micro_batch])
            for at in range(0, len(rows), self._micro_batch)
        )
        sample_ids = np.where(real, ids[rows], PADDING)
        return RankBatch(micro, sample_ids, sum(batch.valid_tokens for batch in micro), 0.0)

    def _cut(self, windows: Ints, real: npt.NDArray[np.bool_]) -> Batch:
        return make_batch(windows, real, eos_id=self._dataset.eos_id, document_mask=self._document_mask)


def sequential_batches(
    dataset: Windows,
    source: str,
    *,
    sequence_length: int,
    micro_batch: int,
    dp_rank: int,
    dp_size: int,
    document_mask: bool,
    limit: int | None,
) -> Iterator[Batch]:
    """Every window of a source once, in order, spread over the ranks; for evaluation.

    All ranks yield the same number of batches, filled up with padding rows. `limit` takes that many
    windows, evenly spaced. Raises UserError where the source has no window.
    """
    total = dataset.windows(source, sequence_length)
    require(
        total > 0,
        f"{dataset.folder}: source {source!r} is smaller than one sample of {sequence_length} + 1 tokens; "
        "give this split more documents or lower data.sequence_length",
    )
    count = total if limit is None else min(limit, total)
    chosen = np.arange(count, dtype=np.int64) * total // count
    rows = rows_of_rank(count, micro_batch, dp_rank, dp_size)
    for at in range(0, len(rows), micro_batch):
        mine = rows[at : at + micro_batch]
        real = mine != PADDING
        windows = np.full((micro_batch, sequence_length + 1), dataset.eos_id, np.int64)
        found = np.empty((int(real.sum()), sequence_length + 1), np.int64)
        dataset.read(source, chosen[mine[real]], sequence_length, found)
        windows[real] = found
        yield make_batch(windows, real, eos_id=dataset.eos_id, document_mask=document_mask)
