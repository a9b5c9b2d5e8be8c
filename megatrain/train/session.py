"""A session: everything that the loop uses, and what it does with several of them at once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from megatrain import faults
from megatrain.checkpoint.commit import Facts
from megatrain.checkpoint.pace import Pace
from megatrain.checkpoint.store import (
    Saved,
    Store,
)
from megatrain.checkpoint.tier import MAIN
from megatrain.config import Config
from megatrain.data.documents import documents_of
from megatrain.data.loader import Loader
from megatrain.errors import FailedWork
from megatrain.evaluate.loss import ALL, as_records, evaluate_loss
from megatrain.observe.log import RunLog
from megatrain.observe.samples import SampleLog
from megatrain.parallel.collectives import broadcast_object
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.lease import Lease
from megatrain.resilience.replicas import differing
from megatrain.resilience.signals import Wish, Wishes
from megatrain.resilience.stragglers import Straggler, Stragglers
from megatrain.resilience.waiting import Waits
from megatrain.resilience.watchdog import Phase
from megatrain.state import Event, RunState, StepResult, Stop
from megatrain.train.engine import Engine
from megatrain.train.preflight import Prepared

LAST_TRIES = 3
LAST_WAIT_S = 10.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """Everything the loop uses."""

    config: Config
    context: ParallelContext
    prepared: Prepared
    engine: Engine
    loader: Loader
    store: Store
    pace: Pace
    lease: Lease | None
    """On rank 0."""
    log: RunLog
    samples: SampleLog
    wishes: Wishes
    stragglers: Stragglers
    waits: Waits | None
    """Of this rank for others; None where they cannot be timed."""
    hosts: tuple[str, ...]
    """Of each rank."""
    watch: Callable[[Phase, int], None]
    """Tells the watchdog what this rank is about to do."""

    def wish(self, state: RunState) -> Wish:
        """What this rank was asked for until now, in the step that follows `state`; rank 0 looks at the
        clock."""
        return self.wishes.now(
            stop=state.step + 1 == self.config.train.stop_after,
            save=self.context.world.rank == 0 and self.pace.due(),
        )

    def save(
        self,
        state: RunState,
        result: StepResult,
        validation_loss: float | None,
        tiers: Sequence[str] = (MAIN,),
    ) -> float:
        """Collective. Begin a save and say so; gives the seconds that training was held up."""
        self.log.event(Event.SAVE, state.step, "" if MAIN in tiers else ", ".join(tiers))
        if MAIN in tiers:
            self.pace.begun()
        loss = result.loss if math.isfinite(result.loss) else None
        facts = Facts(state, self.prepared.identity, loss, validation_loss)
        return self.store.save(self.engine.held(), facts, tiers)

    def tell_saved(self, *, wait: bool = False, wait_s: float | None = None) -> None:
        """Say what became of saves that are over. A failed one is an event, and tried again some time later.

        Raises FailedWork when this attempt has lost its lease: another one goes on with the run.
        """
        for saved in self.store.wait(wait_s) if wait else self.store.finished():
            self._tell(saved)
            faults.point("saved", rank=self.context.world.rank)

    def save_last(self, state: RunState, result: StepResult, validation_loss: float | None) -> None:
        """Collective. Save, wait until it is whole, and try again if it fails.

        Raises FailedWork if it stays so; a preempted run ends all the same, to be started again from an older
        one.
        """
        self.tell_saved(wait=True)
        error = None
        if result.stop is Stop.PREEMPTED and not broadcast_object(self._in_time(), self.context.world):
            self.log.event(Event.FAULT, state.step, "not saved: the time left after the signal is too short")
            return
        for turn in range(LAST_TRIES):
            if turn:
                time.sleep(min(self.config.checkpoint.retry_s, LAST_WAIT_S))
            self.save(state, result, validation_loss)
            for saved in self.store.wait():
                self._tell(saved)
                error = saved.error if saved.tier == MAIN else error
            if error is None:
                return
        if result.stop is not Stop.PREEMPTED:
            raise FailedWork(f"the end of the run, step {state.step}, was not saved: {error}")

    def _in_time(self) -> bool:
        """On rank 0: a save like the last one ends before the supervisor, or SLURM, ends the ranks."""
        left_s = self.config.resilience.grace_s - self.wishes.waiting_s()
        return self.pace.last_s < left_s

    def _tell(self, saved: Saved) -> None:
        where = "" if saved.tier == MAIN else saved.tier
        if saved.tier == MAIN:
            self.pace.ended(well=saved.error is None, seconds=saved.seconds)
        if saved.error is None:
            self.log.event(Event.COMMIT, saved.step, where, bytes=saved.bytes, seconds=saved.seconds)
            return
        logger.error("step %d was not saved: %s", saved.step, saved.error)
        self.log.event(Event.FAULT, saved.step, f"not saved{where and f' ({where})'}: {saved.error}")
        reason = self.lease.lost() if self.lease is not None else None
        if reason is not None:
            raise FailedWork(reason)

    def tell_slow(self, state: RunState, result: StepResult) -> None:
        """Name ranks that are slow step after step, and their hosts."""
        for one in self.stragglers.add(result.own_s, result.comm_wait_s):
            cause = f"{self._named(one)} takes {one.ratio:.1f} times as long as the others"
            numbers = {name: value for name, value in asdict(one).items() if value is not None}
            self.log.event(Event.SLOW, state.step, cause, host=self.hosts[one.rank], **numbers)

    def slow(self) -> str | None:
        """Those who were slow when it was last judged; on rank 0."""
        return ", ".join(map(self._named, self.stragglers.slow)) or None

    def _named(self, one: Straggler) -> str:
        return f"rank {one.rank} on {self.hosts[one.rank]}"

    def evaluate(self, state: RunState) -> float | None:
        """Collective. Log the loss on the validation split, and return that over all sources; None where no
        token counted."""
        assert self.prepared.validation is not None
        self.engine.deepspeed.eval()
        results = evaluate_loss(
            self.engine.forward,
            self.prepared.validation,
            self.prepared.tokenizer.byte_lengths(),
            self.context,
            sequence_length=self.config.data.sequence_length,
            micro_batch=self.config.train.micro_batch,
            documents=documents_of(self.config.data),
            windows=self.config.evaluate.windows,
        )
        self.engine.deepspeed.train()
        self.log.evaluation(state, as_records(results))
        return results[ALL].loss

    def check_replicas(self, state: RunState) -> None:
        """Collective. Raises FailedWork, and says which rank it is, when one holds other weights than it
        must."""
        copies = self.engine.copies()
        if faults.wanted("weights", rank=self.context.world.rank) == "flip":
            copies[0][1].view(-1)[0].neg_()
        reason = differing(copies, self.engine.shared(), self.context)
        if reason is not None:
            self.log.event(Event.FAULT, state.step, reason)
            raise FailedWork(f"step {state.step}: {reason}; weights are not saved, start again elsewhere")
