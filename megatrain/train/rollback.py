"""What follows a step that was skipped: go on, go back to a checkpoint in the same processes, or end."""

from __future__ import annotations

from dataclasses import asdict, replace

from megatrain import faults
from megatrain.errors import FailedWork
from megatrain.parallel.collectives import alike, broadcast_object
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.timeline import (
    LeftOut,
    Records,
    bad_samples,
    belongs,
    fruitless,
    leaving_out,
    may_be_abandoned,
    read_records,
    write_records,
)
from megatrain.state import Event, RunFolder, RunState, StepResult, Verdict
from megatrain.train.session import Session


def must_go_back(session: Session, state: RunState, result: StepResult) -> bool:
    """Tell of a skipped step, and whether the run goes back, alike on all ranks; `state` is the one after it.

    Raises FailedWork where the config wants the run to end.
    """
    config, row = session.config.resilience, state.skipped_in_row
    cause = result.verdict.value
    samples = list(bad_samples(replace(state, skipped_in_row=1), result.samples))
    numbers = {"loss": result.loss, "grad_norm": result.grad_norm}
    session.log.event(Event.SKIP, state.step, cause, **numbers, samples=samples)
    actions = {Verdict.NOT_FINITE: config.not_finite, Verdict.NO_TOKENS: "skip"}
    action = actions.get(result.verdict, config.spikes.action)
    if action == "skip":
        if row < config.max_skipped_in_row:
            return False
        action = config.too_many_skipped
    if action == "stop":
        raise FailedWork(f"{_told(row)}, the last is step {state.step} ({cause}); see events.jsonl")
    return True


def roll_back(session: Session, state: RunState) -> RunState:
    """Collective. Go back to the newest whole checkpoint before the steps skipped in a row, and leave their
    samples out from then on; gives the state from which to go on.

    Raises FailedWork where there is none, or the run went back there too often.
    """
    context, store, folder = session.context, session.store, session.prepared.folder
    session.watch("start", state.step)
    session.tell_saved(wait=True)
    records = known_records(folder, context)
    row = state.skipped_in_row
    begun = state.step - row
    found = store.find(lambda stored: stored.step <= begun and belongs(stored, records))
    for damaged in found.damaged:
        session.log.event(Event.FAULT, state.step, f"checkpoint passed over: {damaged}")
    if found.name is None:
        raise FailedWork(
            f"{_told(row)} after step {begun}, and there is no checkpoint from before to go back to; "
            "see events.jsonl"
        )
    checkpoint = store.open(found, session.engine.held())
    to_step = checkpoint.manifest.state.step
    tries, most = fruitless(records, to_step), session.config.resilience.max_rollbacks
    if tries >= most:
        raise FailedWork(
            f"{_told(row)} after step {begun}, and the run went back to step {to_step} {tries} times already "
            "(resilience.max_rollbacks); see events.jsonl"
        )
    first, last = bad_samples(state, session.config.train.global_batch)
    record = LeftOut(first, last, state.step, to_step, f"{row} skipped")
    records = (*records, record)
    # First what must outlive a crash: no later start takes these samples, or goes on from what came after.
    alike(lambda: _write(session, records), context)
    faults.point("rollback.recorded", rank=context.world.rank)
    store.forget(lambda stored: belongs(stored, records), lambda step: may_be_abandoned(step, [record]))
    session.engine.load(checkpoint)
    stored = checkpoint.manifest.state
    session.log.event(
        Event.ROLLBACK,
        state.step,
        f"{_told(row)}: back to {checkpoint}",
        from_step=state.step,
        to_step=to_step,
        samples=[first, last],
    )
    faults.point("rollback.done", rank=context.world.rank)
    return leaving_out(
        replace(stored, attempt=state.attempt, data_fingerprint=state.data_fingerprint), records
    )


def known_records(folder: RunFolder, context: ParallelContext) -> Records:
    """Collective. What rank 0 reads of the samples that the run leaves out."""
    first = context.world.rank == 0
    read: Records = alike(lambda: read_records(folder) if first else (), context)
    known = broadcast_object([asdict(one) for one in read], context.world)
    return tuple(LeftOut(**one) for one in known)


def _write(session: Session, records: Records) -> None:
    if session.lease is None:
        return
    reason = session.lease.lost()
    if reason is not None:  # whoever holds it now may have committed what would be removed
        raise FailedWork(reason)
    write_records(session.prepared.folder, records)


def _told(row: int) -> str:
    return f"{row} steps in a row were skipped" if row > 1 else "a step was skipped"
