"""Which samples each rank read in each step: written where asked for, read back to compare runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatrain.config import Config
from megatrain.data.batch import PADDING
from megatrain.observe.append import Fence, unfenced
from megatrain.observe.lines import Odd, is_count, last_of_each, newest_only, read_lines
from megatrain.observe.metrics import Record
from megatrain.observe.sinks import LineFile
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunFolder, RunState

logger = logging.getLogger(__name__)


class SampleLog:
    """One JSON line a step: `step`, `attempt`, `ids`; without a path nothing, so every rank can hold one.

    It stops no run: lines that cannot be written are kept for later, and warned about once.
    """

    def __init__(self, path: Path | None, fence: Fence = unfenced) -> None:
        self._file = LineFile(path, fence) if path is not None else None
        self._failing = False

    def step(self, state: RunState, sample_ids: npt.NDArray[np.int64]) -> None:
        """`state` is the one after the step, `sample_ids` what the loader gave this rank, with padding."""
        if self._file is None:
            return
        ids = sample_ids[sample_ids != PADDING].tolist()
        try:
            self._file.append({"step": state.step, "attempt": state.attempt, "ids": ids})
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("the samples of step %d cannot be written now: %s", state.step, error)
            self._failing = True
        self._tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._tell()

    def _tell(self) -> None:
        if self._file is not None and (complaint := self._file.complaint()):
            logger.warning("%s", complaint)


def open_sample_log(
    config: Config, folder: RunFolder, context: ParallelContext, fence: Fence = unfenced
) -> SampleLog:
    """Tensor-parallel neighbours read the same samples: the first of them writes."""
    writes = config.observe.sample_ids and context.tensor.rank == 0
    return SampleLog(folder.samples(context.world.rank) if writes else None, fence)


def read_samples(folder: RunFolder) -> dict[int, tuple[tuple[int, ...], ...]]:
    """By step, the samples of each rank that wrote, in order of rank; the last attempt at a step counts."""
    newest: dict[int, int] = {}
    found: dict[int, list[tuple[int, ...]]] = {}
    for path in sorted(folder.logs.glob("samples-rank-*.jsonl")):
        for record in last_of_each(newest_only(_sound(path))):
            step, attempt = record["step"], record["attempt"]
            if attempt > newest.get(step, 0):
                # What another rank, perhaps of another layout, wrote in an earlier attempt is undone.
                newest[step], found[step] = attempt, []
            if attempt == newest[step]:
                found[step].append(tuple(record["ids"]))
    return {step: tuple(ranks) for step, ranks in found.items()}


def _sound(path: Path) -> Iterator[Record]:
    """Yield the lines that a sample log writes; others are skipped with one warning."""
    odd = Odd(path)
    for line in read_lines(path, odd):
        ids = line.get("ids")
        if (
            is_count(line.get("step"))
            and is_count(line.get("attempt"))
            and isinstance(ids, list)
            and all(map(is_count, ids))
        ):
            yield line
        else:
            odd.add(0, "no samples of a step")
    odd.warn()
