"""The training loop: a page of text."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from megatrain import faults
from megatrain.config import Config
from megatrain.errors import FailedWork
from megatrain.parallel.context import ParallelContext
from megatrain.state import Event, RunState, StepResult, Stop
from megatrain.train.schedule import learning_rate
from megatrain.train.session import Session, open_session
from megatrain.train.step import train_step

logger = logging.getLogger(__name__)


def train(config: Config, context: ParallelContext) -> Stop | None:
    """Collective. Train until the last step (None) or until a stop that was asked for, whose state is
    saved."""
    with open_session(config, context) as (session, state):
        return run_loop(session, state)


def run_loop(session: Session, state: RunState) -> Stop | None:
    """Collective. From `state` on."""
    config, log = session.config, session.log
    saved_step, stall_s, last_step_s = state.step, 0.0, 0.0
    end = min(config.train.steps, config.train.stop_after or config.train.steps)
    while state.step < end:
        batch = session.loader.batch(state.consumed_samples)
        result = train_step(
            session.engine,
            batch,
            learning_rate(state.step, config.schedule, config.train.steps),
            session.wishes.now(stop=state.step + 1 == config.train.stop_after),
            samples=config.train.global_batch,
            last_step_s=last_step_s,
        )
        state, last_step_s = advance(state, result), result.step_s
        log.step(state, result, stall_s)
        session.samples.step(state, batch.sample_ids)
        faults.point("step", rank=session.context.world.rank)
        stall_s = 0.0
        if result.skipped:
            log.event(Event.SKIP, state.step, f"loss {result.loss}, gradient norm {result.grad_norm}")
            if state.skipped_in_row >= config.resilience.max_skipped_in_row:
                raise FailedWork(
                    f"{state.skipped_in_row} steps in a row had no finite loss or gradient; see events.jsonl"
                )
        if config.evaluate.every and (
            state.step % config.evaluate.every == 0 or state.step == config.train.steps
        ):
            session.evaluate(state)
        saved = None
        if save_due(config, state, result) and saved_step != state.step:
            saved = session.save(state, result.loss if math.isfinite(result.loss) else None)
            stall_s, saved_step = saved.seconds, state.step
        session.wishes.granted(save=result.save, stop=result.stop is Stop.ASKED)
        if (
            saved is not None
            and saved.error
            and (state.step == config.train.steps or result.stop is Stop.ASKED)
        ):
            raise FailedWork(f"the end of the run, step {state.step}, was not saved: {saved.error}")
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


def save_due(config: Config, state: RunState, result: StepResult) -> bool:
    """At every so many steps, at the last, and when somebody asks; alike on all ranks."""
    last = state.step == config.train.steps
    return last or state.step % config.checkpoint.every == 0 or result.save or result.stop is not None
