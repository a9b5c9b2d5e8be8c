"""The training loop: a page of text."""

from __future__ import annotations

from dataclasses import replace

from megatrain import faults
from megatrain.checkpoint.tier import MAIN, near
from megatrain.config import Config
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.control import Control
from megatrain.resilience.spikes import extended, judge_after
from megatrain.resilience.watchdog import Watchdog
from megatrain.state import Event, RunState, StepResult, Stop
from megatrain.train.clock import StepClock
from megatrain.train.opening import open_session
from megatrain.train.rollback import must_go_back, roll_back
from megatrain.train.schedule import learning_rate
from megatrain.train.session import Session
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
    stall_s, clock = 0.0, StepClock(session.context.device, session.waits)
    end = min(config.train.steps, config.train.stop_after or config.train.steps)
    while state.step < end:
        session.watch("step", state.step + 1)
        faults.now(state.step + 1)
        batch = session.loader.batch(state.consumed_samples, state.skipped)
        result = train_step(
            session.engine,
            batch,
            learning_rate(state.step, config.schedule, config.train.steps),
            session.wish(state),
            samples=config.train.global_batch,
            judge=judge_after(state.window, config.resilience.spikes),
            updates=state.optimizer_step,
            saving=session.store.busy,
            clock=clock,
        )
        before = state
        state = advance(state, result, config.resilience.spikes.window)
        log.step(state, result, stall_s, session.slow())
        session.samples.step(state, batch.sample_ids)
        session.tell_slow(state, result)
        faults.point("step", rank=session.context.world.rank)
        stall_s, saved = 0.0, False
        if result.skipped and must_go_back(session, state, result):
            state = roll_back(session, state)
            continue  # a stop that was asked for is asked for still
        every = config.resilience.check_replicas_every
        if every and state.step % every == 0:
            session.check_replicas(state)
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
        elif tiers := tiers_due(config, before, state, result):
            if result.saving and config.checkpoint.when_busy == "skip":
                log.event(Event.SAVE, state.step, "left out: the one before is still being written")
            else:
                stall_s = session.save(state, result, validation_loss, tiers)
                saved = MAIN in tiers
        session.wishes.granted(save=result.save and saved, stop=result.stop is Stop.ASKED)
        if result.stop is not None:
            log.event(
                Event.PREEMPT if result.stop is Stop.PREEMPTED else Event.STOP, state.step, result.stop.value
            )
            return result.stop
    log.event(Event.END, state.step, "")
    return None


def advance(state: RunState, result: StepResult, window: int) -> RunState:
    """The state after a step, with a window of so many updates; a skipped step moves on in steps and samples,
    not in updates or counted tokens."""
    window_after = state.window
    if not result.skipped:
        window_after = extended(state.window, result.loss, result.grad_norm, window)
    return replace(
        state,
        step=state.step + 1,
        optimizer_step=state.optimizer_step + (not result.skipped),
        consumed_samples=state.consumed_samples + result.samples,
        consumed_tokens=state.consumed_tokens + (0 if result.skipped else result.valid_tokens),
        skipped_in_row=state.skipped_in_row + 1 if result.skipped else 0,
        window=window_after,
    )


def tiers_due(config: Config, before: RunState, state: RunState, result: StepResult) -> list[str]:
    """Where a checkpoint is due: at every so many steps of each tier, and in the main one when somebody asks
    (a file, a signal, the clock); alike on all ranks.

    Not while steps are skipped, so that those before the row are not pushed out, but right after.
    """
    if state.skipped_in_row:
        return []
    last = before.step - before.skipped_in_row  # when there could have been one before

    def passed(every: int) -> bool:
        return state.step // every > last // every

    main = passed(config.checkpoint.every) or result.save
    tiers = enumerate(config.checkpoint.tiers, 1)
    return [MAIN] * main + [near(number) for number, tier in tiers if passed(tier.every)]
