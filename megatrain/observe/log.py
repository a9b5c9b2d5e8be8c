"""The run's log on rank 0: builds each record once and hands it to every sink; other ranks have none."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from megatrain.config import Config
from megatrain.observe.append import Fence, unfenced
from megatrain.observe.ledger import Ledger
from megatrain.observe.metrics import Circumstances, Hardware, Record, event_record, step_record
from megatrain.observe.sinks import JsonLines, Results, Sink, Terminal
from megatrain.observe.wandb_sink import WandbSink, wandb_mode
from megatrain.state import Event, RunFolder, RunState, StepResult

logger = logging.getLogger(__name__)


class RunLog:
    """Steps, events and evaluations of a run; without sinks it does nothing, so every rank can hold one.

    No sink stops the run: one that raises OSError is warned about once until it works again, and what a sink
    complains of becomes a `fault` event in the others. Where another attempt holds the run, every call raises
    FailedWork, and no sink gets anything.
    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        *,
        hardware: Hardware,
        sequence_length: int,
        ledger: Ledger | None = None,
        alert: Callable[[Record], object] = lambda record: None,
        fence: Fence = unfenced,
    ) -> None:
        """`ledger`: of what the run wrote before; `alert` hears of every event."""
        self._fence = fence
        self._alert = alert
        self._sinks = tuple(sinks)
        self._ledger = ledger or Ledger()
        self._hardware = hardware
        self._sequence_length = sequence_length
        self._failing: set[int] = set()
        self._step = 0

    def step(
        self, state: RunState, result: StepResult, ckpt_stall_s: float = 0.0, slow: str | None = None
    ) -> None:
        """`state` is the one after the step; `ckpt_stall_s` what a save held up since the last step; `slow`
        the ranks, with their hosts, that are slower than the others."""
        if not self._sinks:
            return
        self._step = state.step
        self._require_held()
        around = Circumstances(self._sequence_length, ckpt_stall_s, memory_gib(), time.time(), slow)
        record = step_record(state, result, self._hardware, around)
        self._ledger.step(record)
        record["goodput"] = self._ledger.goodput
        self._tell(lambda sink: sink.write_step(record))
        self._pass_on_complaints(state.step)

    def event(self, event: Event, step: int, cause: str, **details: Any) -> None:
        if not self._sinks:
            return
        self._step = step
        self._require_held()
        record = event_record(event, step, cause, details, time.time())
        self._ledger.event(record)
        self._write_event(record)
        self._alert(record)
        self._pass_on_complaints(step)

    def failure(self, cause: str) -> None:
        """The run ends by this, at the step that was told of last."""
        self.event(Event.FAIL, self._step, cause)

    def evaluation(self, state: RunState, results: Results) -> None:
        """`results`: source, or "all", → {"loss": ..., "perplexity": ..., "bits_per_byte": ..., ...}; None
        is an average over nothing."""
        if not self._sinks:
            return
        self._require_held()
        details = {"consumed_tokens": state.consumed_tokens, "attempt": state.attempt}
        record = event_record(Event.EVALUATION, state.step, "", details, time.time())
        self._tell(lambda sink: sink.write_evaluation(record, results))
        self._pass_on_complaints(state.step)

    def close(self) -> None:
        """Nothing may be told afterwards. What a sink complains of at the end goes to the rank's own log."""
        self._tell(lambda sink: sink.close())
        for sink in self._sinks:
            if complaint := sink.complaint():
                logger.warning("%s", complaint)
        self._sinks = ()

    def _require_held(self) -> None:
        with suppress(OSError):  # not known now: the files keep their lines, see Appender
            self._fence()

    def _write_event(self, record: Record) -> None:
        self._tell(lambda sink: sink.write_event(record))

    def _tell(self, write: Callable[[Sink], None]) -> None:
        for number, sink in enumerate(self._sinks):
            try:
                write(sink)
            except OSError as error:
                if number not in self._failing:
                    logger.warning("%s cannot write now: %s", type(sink).__name__, error.strerror or error)
                self._failing.add(number)
            else:
                self._failing.discard(number)

    def _pass_on_complaints(self, step: int) -> None:
        for complaint in filter(None, [sink.complaint() for sink in self._sinks]):
            self._write_event(event_record(Event.FAULT, step, complaint, {}, time.time()))


def open_log(
    config: Config,
    folder: RunFolder,
    rank: int,
    hardware: Hardware,
    alert: Callable[[Record], object] = lambda record: None,
    ledger: Ledger | None = None,
    fence: Fence = unfenced,
) -> RunLog:
    """The log of this rank: on rank 0 files, terminal and wandb as the config says, on others nothing.

    ledger: of what the run wrote before. fence: see `RunLog`. Raises OSError for a file that cannot be
    appended to.
    """
    sinks: list[Sink] = []
    if rank == 0:
        sinks.append(JsonLines(folder.metrics, folder.events, fence))
        sinks.append(
            Terminal(sys.stdout, total_steps=config.train.steps, print_every=config.observe.print_every)
        )
        mode = wandb_mode(config.observe.wandb, os.environ)
        if mode != "off":
            sinks.append(WandbSink(folder, config, mode))
    length = config.data.sequence_length
    return RunLog(sinks, hardware=hardware, sequence_length=length, ledger=ledger, alert=alert, fence=fence)


def memory_gib() -> float:
    """The most that this rank has used: allocated on its GPU if it uses one, else resident on the host."""
    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if allocated:
        return allocated / 2**30
    return _peak_resident_kib() / 2**20


def _peak_resident_kib() -> float:
    """Of this process alone: on Linux ru_maxrss begins with the peak of the process that started it."""
    try:
        with open("/proc/self/status") as status:
            return float(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return resident / 2**10 if sys.platform == "darwin" else resident
