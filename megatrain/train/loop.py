"""The training loop: a page of text."""

from __future__ import annotations

from dataclasses import replace

from megatrain import faults
from megatrain.checkpoint.tier import MAIN, near
from megatrain.config import Config
from megatrain.errors import FailedWork
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.control import Control
from megatrain.resilience.watchdog import Watchdog
from megatrain.state import Event, RunState, StepResult, Stop
from megatrain.train.schedule import learning_rate
from megatrain.train.session import Session, open_session
from megatrain.train.step import train_step


def train(
    config: Config, context: ParallelContext, watch: Watchdog | None = None, control: Control | None = None
) -> Stop | None:
    """Collective. Train until the last step (None) or until a stop that was asked for, whose state is saved.

    The rank program brings its watchdog and its way to the supervisor; without, nobody watches.
    """
    with open_session(config, context, watch, control) as (session, state):
        return run_loop(session, state)


def run_loop(session: Session, state: RunState) -> Stop | None:
    """Collective. From `state` on."""
    config, log = session.config, session.log
    saved_step, stall_s, last_step_s = state.step, 0.0, 0.0
    end = min(config.train.steps, config.train.stop_after or config.train.steps)
    while state.step < end:
        session.watch("step", state.step + 1)
        batch = session.loader.batch(state.consumed_samples)
        result = train_step(
            session.engine,
            batch,
            learning_rate(state.step, config.schedule, config.train.steps),
            session.wish(state),
            samples=config.train.global_batch,
            last_step_s=last_step_s,
            saving=session.store.busy,
        )
        state, last_step_s = advance(state, result), result.step_s
        log.step(state, result, stall_s)
        session.samples.step(state, batch.sample_ids)
        faults.point("step", rank=session.context.world.rank)
        stall_s, saved = 0.0, False
        if result.skipped:
            log.event(Event.SKIP, state.step, f"loss {result.loss}, gradient norm {result.grad_norm}")
            if state.skipped_in_row >= config.resilience.max_skipped_in_row:
                raise FailedWork(
                    f"{state.skipped_in_row} steps in a row had no finite loss or gradient; see events.jsonl"
                )
        validation_loss = None
        if config.evaluate.every and (
            state.step % config.evaluate.every == 0 or state.step == config.train.steps
        ):
            session.watch("evaluate", state.step)
            validation_loss = session.evaluate(state)
        session.tell_saved()
        session.watch("save", state.step)
        if result.stop is not None or state.step == config.train.steps:
            session.save_last(state, result, validation_loss)
            saved = True
        elif (tiers := tiers_due(config, state, result)) and saved_step != state.step:
            if result.saving and config.checkpoint.when_busy == "skip":
                log.event(Event.SAVE, state.step, "left out: the one before is still being written")
            else:
                stall_s = session.save(state, result, validation_loss, tiers)
                saved, saved_step = MAIN in tiers, state.step
        session.wishes.granted(save=result.save and saved, stop=result.stop is Stop.ASKED)
        if result.stop is not None:
            log.event(
                Event.PREEMPT if result.stop is Stop.PREEMPTED else Event.STOP, state.step, result.stop.value
            )
            return result.stop
    log.event(Event.END, state.step, "")
    return None


def advance(state: RunState, result: StepResult) -> RunState:
    """The state after a step; a skipped one moves on in steps and samples, not in updates or counted
    tokens."""
    return replace(
        state,
        step=state.step + 1,
        optimizer_step=state.optimizer_step + (not result.skipped),
        consumed_samples=state.consumed_samples + result.samples,
        consumed_tokens=state.consumed_tokens + (0 if result.skipped else result.valid_tokens),
        skipped_in_row=state.skipped_in_row + 1 if result.skipped else 0,
    )


def tiers_due(config: Config, state: RunState, result: StepResult) -> list[str]:
    """Where a checkpoint is due: at every so many steps of each tier, and in the main one when somebody asks
    (a file, a signal, the clock); alike on all ranks."""
    main = state.step % config.checkpoint.every == 0 or result.save
    tiers = enumerate(config.checkpoint.tiers, 1)
    return [MAIN] * main + [near(number) for number, tier in tiers if state.step % tier.every == 0]
