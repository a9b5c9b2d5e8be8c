"""A run put together: from a config to a loop that can begin, and what is done when it ends."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import megatrain
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.store import Saved, Store, load, require_same_model
from megatrain.config import Config, to_yaml
from megatrain.data.loader import Loader
from megatrain.durable import replacing
from megatrain.errors import FailedWork, UserError
from megatrain.evaluate.loss import HeldOut, evaluate_loss
from megatrain.model.flops import train_flops_per_token
from megatrain.observe.log import RunLog, open_log
from megatrain.observe.metrics import Hardware
from megatrain.observe.peak import device_peak
from megatrain.observe.ranklog import open_rank_log
from megatrain.observe.samples import SampleLog, open_sample_log
from megatrain.parallel.collectives import broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.signals import Wishes
from megatrain.state import Event, RunFolder, RunState
from megatrain.train.engine import DTYPES, Engine, build_engine
from megatrain.train.preflight import Prepared, prepare_run, require_same_data

LOCK_WAIT_S = 60
T = TypeVar("T")
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
    log: RunLog
    samples: SampleLog
    wishes: Wishes

    def save(self, state: RunState, loss: float | None) -> Saved:
        """Collective. Save and say so. A failed save is an event."""
        self.log.event(Event.SAVE, state.step, "")
        saved = self.store.save(self.engine.held(), state, self.prepared.identity, loss)
        if saved.error is None:
            self.log.event(Event.COMMIT, state.step, "", bytes=saved.bytes, seconds=saved.seconds)
        else:
            logger.error("step %d was not saved: %s", state.step, saved.error)
            self.log.event(Event.FAULT, state.step, f"not saved: {saved.error}")
        return saved

    def evaluate(self, state: RunState) -> dict[str, HeldOut]:
        """Collective. Loss on the validation split, told to the log."""
        assert self.prepared.validation is not None
        self.engine.deepspeed.eval()
        results = evaluate_loss(
            self.engine.forward,
            self.prepared.validation,
            self.prepared.tokenizer.byte_lengths(),
            self.context,
            sequence_length=self.config.data.sequence_length,
            micro_batch=self.config.train.micro_batch,
            document_mask=self.config.data.document_mask,
            windows=self.config.evaluate.windows,
        )
        self.engine.deepspeed.train()
        self.log.evaluation(state, {source: vars(result) for source, result in results.items()})
        return dict(results)


@contextmanager
def open_session(config: Config, context: ParallelContext) -> Iterator[tuple[Session, RunState]]:
    """Collective. The run, and where it begins: at its newest whole checkpoint, or anew.

    Raises UserError and FailedWork alike on all ranks.
    """
    prepared = alike(lambda: prepare_run(config, context.world.size), context)
    folder = prepared.folder
    with _lock(folder, context):
        attempt = broadcast_object(_next_attempt(folder) if context.world.rank == 0 else 0, context.world)
        open_rank_log(folder, context.world.rank)
        if config.data.verify == "hash":
            alike(lambda: prepared.train.verify_share(context.world.rank, context.world.size), context)
        hardware = _hardware(config, context)
        log = open_log(config, folder, context.world.rank, hardware)
        if context.world.rank == 0:
            _write_config(folder, config, prepared)
        engine = build_engine(config, prepared.derived, context)
        store = Store(folder, context, keep=config.checkpoint.keep, verify=config.checkpoint.verify)
        state = _begin(config, prepared, engine, store, log, attempt)
        loader = Loader(
            prepared.train,
            prepared.order,
            global_batch=config.train.global_batch,
            micro_batch=config.train.micro_batch,
            dp_rank=context.data.rank,
            dp_size=context.data.size,
            sequence_length=config.data.sequence_length,
            document_mask=config.data.document_mask,
            prefetch=config.data.prefetch,
        )
        samples = open_sample_log(config, folder, context)
        wishes = Wishes(config.resilience.signals, folder, context.world.rank)
        try:
            yield Session(config, context, prepared, engine, loader, store, log, samples, wishes), state
        finally:
            loader.close()
            samples.close()
            log.close()


def alike(work: Callable[[], T], context: ParallelContext) -> T:
    """Collective. Run `work` on each rank; if it fails on one, all raise that rank's UserError or
    FailedWork."""
    result, failure = None, None
    try:
        result = work()
    except (UserError, FailedWork) as error:
        failure = (type(error).__name__, str(error))
    for found in gather_objects(failure, context.world):
        if found is not None:
            raise (UserError if found[0] == "UserError" else FailedWork)(found[1])
    return result  # type: ignore[return-value]


def _begin(
    config: Config, prepared: Prepared, engine: Engine, store: Store, log: RunLog, attempt: int
) -> RunState:
    """Collective. Read the checkpoint that the run goes on from, or start fresh."""
    context = engine.context
    state = RunState(seed=config.run.seed, data_fingerprint=prepared.fingerprint, attempt=attempt)
    found = store.find()
    for damaged in found.damaged:
        log.event(Event.FAULT, state.step, f"checkpoint passed over: {damaged}")
    if found.folder is not None:
        checkpoint = Checkpoint(found.folder)
        stored = checkpoint.manifest.state
        alike(lambda: require_same_model(checkpoint, prepared.identity), context)
        alike(lambda: require_same_data(stored.data_fingerprint, prepared.fingerprint, config), context)
        alike(lambda: load(checkpoint, engine.held()), context)
        engine.after_load(stored.optimizer_step)
        state = replace(stored, attempt=attempt, data_fingerprint=prepared.fingerprint)
        log.event(
            Event.RESUME, state.step, str(found.folder), attempt=attempt, layout=prepared.identity.layout
        )
    elif config.checkpoint.load_weights_from is not None:
        source = Path(config.checkpoint.load_weights_from)
        checkpoint = alike(lambda: Checkpoint(source), context)
        alike(lambda: require_same_model(checkpoint, prepared.identity), context)
        weights = [held for held in engine.held() if held.tensor.startswith("weights/")]
        alike(lambda: load(checkpoint, weights), context)
        engine.after_load(0)
        log.event(Event.START, 0, f"weights of {source}", attempt=attempt, layout=prepared.identity.layout)
    else:
        log.event(Event.START, 0, "", attempt=attempt, layout=prepared.identity.layout)
    return state


def _hardware(config: Config, context: ParallelContext) -> Hardware:
    """Collective. Ranks that measure all measure at once, for they share the machine."""
    peak = device_peak(config.observe.peak_tflops, context.device, DTYPES[config.precision.dtype])
    total = sum(gather_objects(peak.tflops, context.world))
    logger.info("peak of all devices: %.3f TFLOP/s (%s)", total, peak.origin)
    return Hardware(train_flops_per_token(config.model, config.data.sequence_length), total * 1e12)


def _write_config(folder: RunFolder, config: Config, prepared: Prepared) -> None:
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
    with replacing(folder.config) as file:
        file.write(text.encode())
    print(text, flush=True)


def _next_attempt(folder: RunFolder) -> int:
    """A number that no earlier start of this run has had, durably."""
    path = folder.root / "attempt.json"
    try:
        attempt = int(json.loads(path.read_text())["attempt"]) + 1
    except FileNotFoundError:
        attempt = 1
    with replacing(path) as file:
        file.write(json.dumps({"attempt": attempt, "pid": os.getpid()}).encode())
    return attempt


@contextmanager
def _lock(folder: RunFolder, context: ParallelContext) -> Iterator[None]:
    """Collective. Rank 0 holds the folder's lock, so that two starts never write into one run."""
    handle = None

    def take() -> None:
        nonlocal handle
        if context.world.rank == 0:
            folder.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            _wait_for(handle, folder)

    alike(take, context)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _wait_for(handle: int, folder: RunFolder) -> None:
    """An earlier attempt may still be ending; whoever holds the lock longer is another run."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"run.folder ({folder.root}) is in use by a run that is going on; stop it (touch "
                    f"{folder.stop_file}) or choose another run.folder"
                ) from None
            time.sleep(0.5)
        else:
            return
