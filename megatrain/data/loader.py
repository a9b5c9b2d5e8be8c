"""Batches for each data-parallel rank: rows of the global batch, prefetched by one thread."""

# Shapes: R rows of this rank, K global batches that are located together, S sequence length.

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megatrain.data.batch import PADDING, Batch, Memory, RankBatch, make_batch, rows_of_rank
from megatrain.data.documents import Documents
from megatrain.data.files import File
from megatrain.data.lookahead import Lookahead
from megatrain.data.order import BLOCK, SampleOrder
from megatrain.data.rows import Ints, Reads, Rows, advise
from megatrain.data.skipped import Ranges, numbered
from megatrain.errors import require

LOCATED_TOGETHER = 4096  # rows: what the order costs at each call is then spread over many
WAITED_SHARE = 0.25  # of the pieces, for which this thread had to wait: they did not come from memory
SLOW_BATCHES = 32  # so long reading counts as slow after it was


class Windows(Protocol):
    """What is evaluated on: a TokenDataset, or several under one roof."""

    @property
    def folder(self) -> Path: ...
    @property
    def eos_id(self) -> int: ...
    def windows(self, source: str, sequence_length: int, /) -> int: ...
    def read(self, source: str, window_ids: Ints, sequence_length: int, out: npt.NDArray[Any], /) -> None: ...


class Samples(Protocol):
    """What is trained on: windows of a TokenDataset or of several, or packed rows."""

    @property
    def eos_id(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shard_files(self) -> Sequence[File]: ...
    def reads(self, source: str, ids: Ints, sequence_length: int, /) -> Reads: ...


@dataclass(frozen=True)
class _Plan:
    """What to read for K global batches from sample position `first` on: ids of the rows [K, R], how many
    tokens of each are real [K, R], which batches have no padding, and the reads; those of batch k end at
    `ends[k]`."""

    first: int
    skipped: Ranges
    ids: Ints
    real: Ints
    full: list[bool]
    reads: Reads
    ends: Ints

    def reads_of(self, step: int) -> Reads:
        """Those of one global batch."""
        return self.reads[slice(self.ends[step - 1] if step else 0, self.ends[step])]


class Loader:
    """Gives a rank its rows of the global batch at any position; holds no position of its own."""

    def __init__(
        self,
        dataset: Samples,
        order: SampleOrder,
        *,
        global_batch: int,
        micro_batch: int,
        dp_rank: int,
        dp_size: int,
        sequence_length: int,
        documents: Documents,
        prefetch: int,
        lookahead: Lookahead | None = None,
    ) -> None:
        """`prefetch` is how many global batches are made ahead; 0 means none, and no thread. The loader
        closes the `lookahead`."""
        assert global_batch > 0 and micro_batch > 0 and 0 <= dp_rank < dp_size and prefetch >= 0
        self._dataset, self._order, self._files = dataset, order, dataset.shard_files
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._sequence_length, self._documents = sequence_length, documents
        self._mine = rows_of_rank(global_batch, micro_batch, dp_rank, dp_size)
        self._rows = Rows(
            len(self._mine), sequence_length + 1, dataset.dtype, dataset.eos_id, dataset.vocab_size
        )
        self._memory = Memory(len(self._mine), sequence_length)
        self._plan: _Plan | None = None
        self._advised, self._slow = 0, SLOW_BATCHES
        self._prefetch, self._lookahead = prefetch, lookahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._ahead: dict[tuple[int, Ranges], Future[RankBatch]] = {}

    @property
    def micro_batches(self) -> int:
        """Micro-batches a global batch: the steps of gradient accumulation, equal on all ranks."""
        return len(self._mine) // self._micro_batch

    def batch(self, consumed_samples: int, skipped: Ranges = ()) -> RankBatch:
        """This rank's rows of the global batch that follows when so many samples that are not skipped were
        taken.

        A position that was not foreseen is computed on the spot. Raises what reading the shards raises.
        """
        began = time.monotonic()
        if self._lookahead is not None:
            self._lookahead.reached(consumed_samples + (self._prefetch + 1) * self._global_batch, skipped)
        if self._thread is None:
            made = self._make(consumed_samples, skipped)
        else:
            made = self._from_thread(self._thread, consumed_samples, skipped)
        return RankBatch(made.micro_batches, made.sample_ids, made.valid_tokens, time.monotonic() - began)

    def close(self) -> None:
        """End the threads; what they had made ahead is dropped."""
        if self._lookahead is not None:
            self._lookahead.close()
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
        """By one thread alone: rows and plan are used again."""
        plan = self._plan
        step, rest = divmod(consumed_samples - plan.first, self._global_batch) if plan else (0, 0)
        if plan is None or plan.skipped != skipped or rest or not 0 <= step < len(plan.ids):
            plan, step = self._planned(consumed_samples, skipped), 0
            self._plan, self._advised = plan, 0
        self._read(plan, step)
        whole = make_batch(
            self._rows.tokens,
            None if plan.full[step] else plan.real[step],
            eos_id=self._dataset.eos_id,
            documents=self._documents,
            memory=self._memory,
        )
        return RankBatch(whole.split(self._micro_batch), plan.ids[step], whole.valid_tokens, 0.0)

    def _read(self, plan: _Plan, step: int) -> None:
        """Read the rows of a batch; where reading is slow, ask for those of the next meanwhile."""
        if self._slow:
            for ahead in range(max(step, self._advised), min(step + 2, len(plan.ids))):
                advise(plan.reads_of(ahead), self._files)
                self._advised = ahead + 1
        reads, waits = plan.reads_of(step), _waits()
        self._rows.fill(reads, self._files)
        is_slow = _waits() - waits > WAITED_SHARE * len(reads.row)
        self._slow = SLOW_BATCHES if is_slow else max(0, self._slow - 1)

    def _planned(self, consumed_samples: int, skipped: Ranges) -> _Plan:
        """Many rows at a time, for the order costs the same for one as for a thousand."""
        own = np.flatnonzero(self._mine != PADDING)
        steps = max(1, min(LOCATED_TOGETHER // max(1, len(own)), BLOCK // self._global_batch))
        begins = consumed_samples + self._global_batch * np.arange(steps, dtype=np.int64)
        ids = np.full((steps, len(self._mine)), PADDING, np.int64)
        ids[:, own] = numbered(begins[:, None] + self._mine[own], skipped)
        found = self._order.find(ids[:, own].reshape(-1))
        parts = []
        for which, source in enumerate(self._order.sources):
            here = np.flatnonzero(found.source == which)
            reads = self._dataset.reads(source, found.window[here], self._sequence_length)
            parts.append(replace(reads, row=here[reads.row]))
        reads = Reads.joined(parts)
        step, column = np.divmod(reads.row, max(1, len(own)))
        reads = replace(reads, row=own[column])
        real = np.zeros(ids.shape, np.int64)
        np.maximum.at(real, (step, reads.row), reads.last // self._dataset.dtype.itemsize)
        by_step = np.argsort(step, kind="stable")
        reads, ends = reads[by_step], np.searchsorted(step[by_step], np.arange(steps), side="right")
        full: list[bool] = np.all(real > self._sequence_length, axis=1).tolist()
        return _Plan(consumed_samples, skipped, ids, real, full, reads, ends)


def _waits() -> int:
    """How often this thread has given its processor up, to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def sequential_batches(
    dataset: Windows,
    source: str,
    *,
    sequence_length: int,
    micro_batch: int,
    dp_rank: int,
    dp_size: int,
    documents: Documents,
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
        counts = np.where(real, sequence_length + 1, 0)
        yield make_batch(windows, counts, eos_id=dataset.eos_id, documents=documents)
