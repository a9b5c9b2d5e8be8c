"""A run put together: from a config to a loop that can begin, and what is done when it ends."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch

import megatrain
from megatrain import faults
from megatrain.checkpoint.belonging import (
    require_same_model,
    require_same_precision,
    require_whole,
)
from megatrain.checkpoint.near import Nodes, near_place
from megatrain.checkpoint.pace import Pace
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.retention import Retention
from megatrain.checkpoint.store import Store, may_commit
from megatrain.checkpoint.tier import MAIN, Tier, near
from megatrain.config import Config, FaultConfig, to_yaml
from megatrain.data.training import open_loader
from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError
from megatrain.observe.log import RunLog
from megatrain.observe.ranklog import open_rank_log
from megatrain.observe.samples import open_sample_log
from megatrain.output import say
from megatrain.parallel.collectives import alike, broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.control import Control, read_bad_hosts
from megatrain.resilience.process import age_s
from megatrain.resilience.selfcheck import check_all
from megatrain.resilience.signals import Wishes
from megatrain.resilience.stragglers import Stragglers
from megatrain.resilience.timeline import belongs, leaving_out, may_be_abandoned
from megatrain.resilience.waiting import Waits, timed_waits
from megatrain.resilience.watchdog import Phase, Watchdog
from megatrain.state import Event, RunFolder, RunState
from megatrain.train.begun import settled, with_start
from megatrain.train.changes import Settings, Starts, changes, read_starts, settings_now, write_start
from megatrain.train.engine import Engine, build_engine
from megatrain.train.hold import Hold, hold_run, keep_log
from megatrain.train.preflight import Prepared, changed_data, prepare_run, require_same_data, writable
from megatrain.train.progress import (
    Progress,
    fresh_start,
    newer_lost,
    read_progress,
    require_left_out,
    require_not_lost,
)
from megatrain.train.rollback import known_records
from megatrain.train.session import Session

ABANDON_S = 60.0
logger = logging.getLogger(__name__)


@contextmanager
def open_session(
    config: Config, context: ParallelContext, watch: Watchdog | None = None, control: Control | None = None
) -> Iterator[tuple[Session, RunState]]:
    """Collective. The run, and where it begins: at its newest whole checkpoint, or anew.

    Raises UserError and FailedWork alike on all ranks.
    """
    world, asked = context.world, config.data.document_start
    config = _settled(config, context)
    prepared = alike(lambda: prepare_run(config, world.size, world.rank), context)
    with hold_run(prepared.folder, config, context) as hold:
        if control is not None and hold.lease is not None:
            control.hold(hold.lease.key)
        open_rank_log(prepared.folder, world.rank)
        if asked is None and config.data.document_start == "none":
            logger.info("data.document_start is not set: none, by which the run was begun")
        faults.arm([_wish(fault) for fault in config.faults])
        faults.begin(hold.attempt)
        if watch is not None:
            watch.opened(hold.attempt)
        with keep_log(config, context, prepared.folder, hold) as log, _waits(config, context) as waits:
            if config.data.verify == "hash":
                alike(lambda: prepared.samples.verify_share(world.rank, world.size), context)
                if prepared.validation is not None:
                    validation = prepared.validation
                    alike(lambda: validation.verify_share(world.rank, world.size), context)
            session, state = _put_together(config, context, prepared, hold, log, waits, watch, control)
            try:
                yield session, state
                session.watch("end", 0)
            except (FailedWork, UserError):
                # All ranks end alike: what is being saved can still become whole.
                session.tell_saved(wait=True, wait_s=ABANDON_S)
                raise
            finally:
                session.loader.close()
                session.samples.close()


def _settled(config: Config, context: ParallelContext) -> Config:
    """Collective. `settled` by rank 0, which looks at the run's folder for all."""
    found = alike(lambda: settled(config) if context.world.rank == 0 else config, context)
    return with_start(config, broadcast_object(found.data.document_start, context.world))


def _put_together(
    config: Config,
    context: ParallelContext,
    prepared: Prepared,
    hold: Hold,
    log: RunLog,
    waits: Waits | None,
    watch: Watchdog | None,
    control: Control | None,
) -> tuple[Session, RunState]:
    """Collective. Engine, checkpoints and data, in the order in which one needs the other."""
    world, folder, settings, care = context.world, prepared.folder, config.checkpoint, config.resilience
    starts = read_starts(folder) if world.rank == 0 else Starts()  # an older run has its config.yaml alone
    told = alike(lambda: _write_config(folder, config, prepared, hold) if world.rank == 0 else "", context)
    if world.rank == 0:
        say(told, sys.stdout)
    if care.selfcheck.enabled:
        _check_hardware(config, context, folder, log)
    engine = build_engine(config, prepared.derived, context)
    store = Store(
        _tiers(config, prepared, context, hold.run),
        context,
        verify=settings.verify,
        background=settings.background,
        timeout_s=settings.timeout_s,
        lost=hold.lease.lost if hold.lease is not None else may_commit,
    )
    state = _begin(config, prepared, engine, store, log, hold.attempt, starts)
    _tell_of_faults(config, state, log)
    store.reserve(engine.held())
    loader = open_loader(
        prepared.samples, prepared.order, config, dp_rank=context.data.rank, dp_size=context.data.size
    )
    slow = care.stragglers
    session = Session(
        config=config,
        context=context,
        prepared=prepared,
        engine=engine,
        loader=loader,
        store=store,
        pace=Pace(settings.every_minutes and 60 * settings.every_minutes, settings.retry_s),
        lease=hold.lease,
        log=log,
        samples=open_sample_log(config, folder, context, hold.fence),
        wishes=Wishes(
            care.signals, folder, world.rank, save_signal=care.save_signal, control=control, fence=hold.fence
        ),
        stragglers=Stragglers(slow.every if world.rank == 0 else 0, slow.ratio, slow.least_s),
        waits=waits,
        hosts=tuple(gather_objects(socket.gethostname(), world)),
        watch=watch.phase if watch is not None else _unwatched,
    )
    return session, state


def _waits(config: Config, context: ParallelContext) -> AbstractContextManager[Waits | None]:
    """Times what this rank waits for others, where its thread stands in each collective."""
    # Compiled code has the collectives of tensor parallelism within it.
    outside = config.parallel.tensor > 1 and config.train.compile != "none"
    return timed_waits() if context.device.type == "cpu" and not outside else nullcontext()


def _tell_of_faults(config: Config, state: RunState, log: RunLog) -> None:
    """A rehearsal that cannot strike any more looks like one that went well."""
    for fault in config.faults:
        if fault.attempt not in (None, state.attempt) or (fault.step or state.step + 1) <= state.step:
            told = f"rehearsed {fault.do} at {fault.at} cannot strike any more"
            log.event(Event.FAULT, state.step, told)


def _wish(fault: FaultConfig) -> dict[str, object]:
    """In the words of `megatrain.faults`."""
    moment = {"hit": f"{fault.hit}{'+' * fault.again}"} if fault.step is None else {"step": str(fault.step)}
    attempt = {} if fault.attempt is None else {"attempt": fault.attempt}
    told = {"point": fault.at, "do": fault.do, "rank": fault.rank, "seconds": fault.seconds}
    return {**told, **moment, **attempt}


def _unwatched(phase: Phase, step: int) -> None:
    """For a loop that was called without a watchdog."""


def _begin(
    config: Config,
    prepared: Prepared,
    engine: Engine,
    store: Store,
    log: RunLog,
    attempt: int,
    starts: Starts,
) -> RunState:
    """Collective. Read the checkpoint that the run resumes from, or start fresh. `starts`: on rank 0, the
    settings of earlier starts."""
    context, folder = engine.context, prepared.folder
    first = context.world.rank == 0
    records = known_records(folder, context)
    state = RunState(seed=config.run.seed, data_fingerprint=prepared.fingerprint, attempt=attempt)
    found = store.find(lambda stored: belongs(stored, records))
    progress: Progress = alike(
        lambda: read_progress(folder, steps=found.name is None) if first else Progress(), context
    )
    if found.name is None:
        on_purpose = config.checkpoint.restart_from_zero
        alike(lambda: require_not_lost(folder, progress, prepared.place, on_purpose=on_purpose), context)
    if records:  # a rollback that was cut off may have left some behind
        store.forget(lambda stored: belongs(stored, records), lambda step: may_be_abandoned(step, records))
    for damaged in found.damaged:
        log.event(Event.FAULT, state.step, f"checkpoint passed over: {damaged}")
    about = {
        "attempt": attempt,
        "layout": prepared.identity.layout,
        "passes": {one.source: round(one.passes, 3) for one in prepared.passes},
    }
    versions = {"torch": torch.__version__, "megatrain": megatrain.__version__, "device": context.device.type}
    now = settings_now(config, context.world.size, versions)
    if found.name is not None:
        checkpoint = store.open(found, engine.held())
        stored = checkpoint.manifest.state
        alike(lambda: require_same_model(checkpoint, prepared.identity), context)
        alike(lambda: _require_precision(checkpoint, prepared, config), context)
        alike(lambda: require_same_data(stored, prepared.fingerprint, config), context)
        alike(lambda: require_left_out(folder, progress, records, stored.skipped) if first else None, context)
        engine.load(checkpoint)
        state = replace(stored, attempt=attempt, data_fingerprint=prepared.fingerprint)
        log.event(Event.RESUME, state.step, str(checkpoint), **about, startup_s=age_s())
        lost = newer_lost(progress, state.step)
        if lost is not None and not found.damaged:
            log.event(Event.FAULT, state.step, lost)
        if first:
            _log_changes(log, checkpoint, starts, now, changed_data(stored, prepared.fingerprint, config))
    elif config.checkpoint.load_weights_from is not None:
        source = config.checkpoint.load_weights_from
        checkpoint = alike(lambda: Checkpoint(source), context)
        alike(lambda: require_same_model(checkpoint, prepared.identity), context)
        world, hashes = context.world, config.checkpoint.verify
        alike(lambda: require_whole(checkpoint, world.rank, world.size, hashes=hashes), context)
        engine.load_weights(checkpoint)
        cause = "; ".join(filter(None, [f"weights of {source}", fresh_start(progress)]))
        log.event(Event.START, 0, cause, **about, startup_s=age_s())
    else:
        log.event(Event.START, 0, fresh_start(progress), **about, startup_s=age_s())
    if first:
        write_start(folder, starts, attempt, now)
    return leaving_out(state, records)


def _log_changes(
    log: RunLog, checkpoint: Checkpoint, starts: Starts, now: Settings, data: str | None
) -> None:
    """Log what this start does otherwise than the one that saved the checkpoint."""
    manifest = checkpoint.manifest
    state, before = manifest.state, starts.of(manifest.state.attempt)
    if before is None:
        cause = (
            f"what changed since step {state.step} is not known: {starts.unknown or 'no record of its start'}"
        )
        log.event(Event.CHANGE, state.step, "; ".join(filter(None, [cause, data])))
        return
    # The checkpoint itself says on which layout and in which precision it was trained.
    names = {"tensor": "parallel.tensor", "zero": "parallel.zero", "world": "ranks"}
    known = {names[name]: value for name, value in manifest.layout.items() if name in names}
    precision = {f"precision.{name}": value for name, value in (manifest.precision or {}).items()}
    found = changes({**before, **known, **precision}, now, state.step, data)
    if found is not None:
        log.event(Event.CHANGE, state.step, found.text, numbers=found.numbers, summation=found.summation)


def _require_precision(checkpoint: Checkpoint, prepared: Prepared, config: Config) -> None:
    allowed = config.checkpoint.allow_precision_change
    require_same_precision(checkpoint, prepared.identity, allow_change=allowed)


def _check_hardware(config: Config, context: ParallelContext, folder: RunFolder, log: RunLog) -> None:
    """Collective. Tell of ranks that are wrong or slow; raises when the config does not want to train with
    them."""
    settings = config.resilience.selfcheck
    found, bad = check_all(context, folder.root, settings.ratio)
    for checked in found:
        logger.info("%s", checked)
    for one in bad:
        log.event(Event.FAULT, 0, f"rank {one.rank} on {one.host}: {one.why}")
    if not bad or settings.bad == "tell":
        return
    names = ", ".join(dict.fromkeys(f"{one.host} ({one.why})" for one in bad))
    if settings.bad == "stop":
        raise FailedWork(f"hosts are wrong or slow: {names}; leave them out (resilience.selfcheck.bad)")
    if context.world.rank == 0:
        known = read_bad_hosts(folder)
        hosts = dict.fromkeys([*known, *(one.host for one in bad)])
        write_durably(folder.bad_hosts, "".join(f"{host}\n" for host in hosts).encode())
    raise RuntimeError(f"hosts are wrong or slow, the next start leaves them out: {names}")


def _write_config(folder: RunFolder, config: Config, prepared: Prepared, hold: Hold) -> str:
    """Give what the terminal is told of it: all, unless it is as it was at the last start. Raises
    FailedWork."""
    derived = prepared.derived
    comments = {
        "megatrain": megatrain.__version__,
        "ranks": derived.world,
        "data-parallel ranks": derived.data_parallel,
        "micro-batches a step": derived.accumulation,
        "tokens a step": derived.tokens_per_step,
        "data fingerprint": prepared.fingerprint,
    }
    text = to_yaml(config, comments)
    if folder.config.exists() and folder.config.read_bytes() == text.encode():
        return f"attempt {hold.attempt}, config as before ({folder.config})"
    try:
        hold.fence()
        write_durably(folder.config, text.encode())
    except OSError as error:
        raise FailedWork(f"{folder.config}: cannot be written: {error.strerror or error}") from None
    return text


def _tiers(config: Config, prepared: Prepared, context: ParallelContext, run_id: str) -> list[Tier]:
    """Collective. The main tier, and those on the nodes' own disks. Raises UserError for a folder that cannot
    be."""
    settings = config.checkpoint
    retention = Retention(settings.keep, settings.keep_every, settings.keep_best)
    tiers = [Tier(MAIN, prepared.place, retention)]
    if not settings.tiers:
        return tiers
    nodes = Nodes.create(context, settings.timeout_s)
    for number, tier in enumerate(settings.tiers, 1):
        # Of this run alone: a folder that is deleted and begun anew is another run.
        place = near_place(tier.folder, f"{config.run.name}-{run_id[:12]}", nodes)
        alike(lambda place=place: writable("checkpoint.tiers", place.root), context)  # type: ignore[misc]
        if tier.partner_copy:
            nodes.require_even()
        tiers.append(Tier(near(number), place, Retention(tier.keep), nodes, tier.partner_copy))
    if nodes.count == 1 and any(tier.partner_copy for tier in settings.tiers):
        logger.warning("checkpoint.tiers: all ranks are on one node, so there is no neighbour to keep copies")
    return tiers
