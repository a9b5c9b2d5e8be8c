"""A start's hold on its run: the lease, and the log, which nobody but the holder may write."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

from megatrain.config import Config
from megatrain.errors import FailedWork
from megatrain.model.flops import train_flops_per_token
from megatrain.observe.append import Fence
from megatrain.observe.ledger import Ledger, reading_ledger
from megatrain.observe.log import RunLog, open_log
from megatrain.observe.metrics import Hardware, Record
from megatrain.observe.peak import device_peak
from megatrain.parallel.collectives import alike, broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.alerts import alert, message
from megatrain.resilience.lease import Lease, take_lease
from megatrain.state import RunFolder
from megatrain.train.engine import DTYPES

LAST_ALERTS_S = 5.0
"""So long the end of a rank waits for alerts that are under way."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hold:
    """What this start has of the run."""

    lease: Lease | None
    """On rank 0."""
    attempt: int
    run: str
    """The run's own name, made at its first start."""

    def ours(self) -> bool:
        """Whether nobody else has taken the run over, as far as rank 0 can see."""
        try:
            return self.lease is None or self.lease.lost() is None
        except (OSError, FailedWork):
            return False

    def fence(self) -> None:
        """Raise FailedWork when another attempt holds the run, OSError when that cannot be known now; only
        rank 0 can know. To be called before whatever is written into the run's folder."""
        if self.lease is not None:
            self.lease.fence()


@contextmanager
def hold_run(folder: RunFolder, config: Config, context: ParallelContext) -> Iterator[Hold]:
    """Collective. Rank 0 holds the run's lease, so that two starts never write into one run; all know the
    attempt and the run's own name."""
    first = context.world.rank == 0
    lease = alike(lambda: take_lease(folder, config.resilience.lease_s) if first else None, context)
    try:
        told = (lease.attempt, lease.run) if lease is not None else (0, "")
        yield Hold(lease, *broadcast_object(told, context.world))
    finally:
        if lease is not None:
            lease.release()


@contextmanager
def keep_log(config: Config, context: ParallelContext, folder: RunFolder, hold: Hold) -> Iterator[RunLog]:
    """Collective. What the run tells of itself; the last that it tells is what it failed of."""
    alerts: list[Thread] = []

    def tell(record: Record) -> None:
        alerts.extend(alert(config.resilience.alert, message(config.run.name, record)))

    hardware, ledger = _hardware(config, context), _ledger(folder, context)
    log = alike(
        lambda: _open(config, folder, context.world.rank, hardware, tell, ledger, hold.fence), context
    )
    try:
        yield log
    except FailedWork as error:
        if hold.ours():  # else it goes on elsewhere, and did not fail
            log.failure(str(error))
        raise
    finally:
        log.close()
        deadline = time.monotonic() + LAST_ALERTS_S
        for thread in alerts:
            thread.join(max(0.0, deadline - time.monotonic()))


def _open(
    config: Config,
    folder: RunFolder,
    rank: int,
    hardware: Hardware,
    tell: Callable[[Record], None],
    ledger: Ledger | None,
    fence: Fence,
) -> RunLog:
    try:
        return open_log(config, folder, rank, hardware, tell, ledger, fence)
    except OSError as error:
        where = error.filename or folder.root
        raise FailedWork(f"{where}: the run's log cannot be opened: {error.strerror or error}") from None


def _ledger(folder: RunFolder, context: ParallelContext) -> Ledger | None:
    """Collective. On rank 0 what the run did before this start.

    Reading it takes seconds for each million steps; the others wait for it in many short collectives, so
    that no age of a run comes to `resilience.collective_timeout_s`.
    """
    turns = reading_ledger(folder) if context.world.rank == 0 else None
    while True:
        ledger = next(turns) if turns is not None else None
        if broadcast_object(ledger is not None, context.world):
            return ledger


def _hardware(config: Config, context: ParallelContext) -> Hardware:
    """Collective. Ranks that measure all measure at once, for they share the machine."""
    peak = device_peak(config.observe.peak_tflops, context.device, DTYPES[config.precision.dtype])
    total = sum(gather_objects(peak.tflops, context.world))
    logger.info("peak of all devices: %.3f TFLOP/s (%s)", total, peak.origin)
    return Hardware(train_flops_per_token(config.model, config.data.sequence_length), total * 1e12)
