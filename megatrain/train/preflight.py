"""What can be seen before a rank starts: the layout, the data, the room on the disk, whose run folder it
is."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megatrain.checkpoint.belonging import (
    none_whole,
    require_same_model,
    require_same_precision,
    require_whole,
)
from megatrain.checkpoint.commit import Identity
from megatrain.checkpoint.manifest import MANIFEST
from megatrain.checkpoint.place import LocalPlace, Place, place_of_run, require_reachable
from megatrain.checkpoint.read import Checkpoint, has_manifest, newest_first
from megatrain.config import Config, Derived, derive
from megatrain.config.deepspeed import without_effect
from megatrain.data.mixture import TokenMixture, require_windows
from megatrain.data.order import SampleOrder
from megatrain.data.tokenizer import Tokenizer
from megatrain.data.training import TrainingSamples
from megatrain.errors import FailedWork, UserError, require
from megatrain.model.flops import count_parameters
from megatrain.resilience.lease import read_holder
from megatrain.resilience.timeline import read_records
from megatrain.state import RunFolder, RunState
from megatrain.train.begun import settled
from megatrain.train.passes import Passes, passes_over, warnings_of
from megatrain.train.progress import read_progress, require_left_out, require_not_lost

# What the parts of a data fingerprint stand for.
ORDER = (
    "the shards of data.sources changed",
    "data.sources: which, or their weights, or data.phases or data.shuffle changed",
    "data.sequence_length changed",
    "data.document_mask, data.document_start or data.packing changed",
)
STATE_BYTES = 12  # a parameter in a checkpoint: fp32 weight and two moments


@dataclass(frozen=True)
class Prepared:
    """Opened and checked; the same on every rank."""

    derived: Derived
    train: TokenMixture
    validation: TokenMixture | None
    samples: TrainingSamples
    """Of `train`."""
    order: SampleOrder
    tokenizer: Tokenizer
    fingerprint: str
    """Of all that decides which sample comes when: data, mixture, sequence length, document handling."""
    identity: Identity
    folder: RunFolder
    place: Place
    """Of the checkpoints."""
    passes: tuple[Passes, ...]
    """Of the whole run over each source."""
    warnings: tuple[str, ...]
    """Lines on the data that a person should read before the run begins."""


def prepare_run(config: Config, world: int, rank: int = 0) -> Prepared:
    """Raises UserError for whatever would stop the run later: exit 2 on the login node, not on a thousand
    GPUs. Rank 0 looks at the run's folder and at its checkpoints; elsewhere data.document_start is set."""
    config = settled(config) if rank == 0 else config
    derived = derive(config, world)
    # Of the shards' sizes rank 0 looks at all, the others at a share: a file system has better things to do.
    share = {"share": rank, "shares": world if rank else 1}
    train = TokenMixture.open(config.data, "train", **share)
    validation = TokenMixture.open(config.data, "validation", **share) if config.evaluate.every else None
    if validation is not None:
        require_windows(validation, "validation", config.data.sequence_length)
    tokenizer = _tokenizer(config, train)
    padded, tensor = tokenizer.info.padded_vocab_size or tokenizer.vocab_size, config.parallel.tensor
    require(
        tokenizer.vocab_size <= config.model.vocab_size,
        f"model.vocab_size ({config.model.vocab_size}) is below the tokenizer's {tokenizer.vocab_size}; "
        f"set it to {-(-padded // tensor) * tensor}, a multiple of parallel.tensor ({tensor})",
    )
    samples = TrainingSamples(train, config.data)
    order = samples.order(config.run.seed)
    samples.require_room(order.sources)
    passes = passes_over(order, config.train.steps, config.train.global_batch)
    fingerprint = samples.fingerprint(order)
    layout = {
        "world": world,
        "tensor": config.parallel.tensor,
        "data": derived.data_parallel,
        "zero": config.parallel.zero,
    }
    identity = Identity(
        config.model.model_dump(mode="json"),
        train.tokenizer_hash,
        config.precision.model_dump(mode="json"),
        layout,
    )
    folder = RunFolder(Path(config.run.folder))
    place = place_of_run(folder, config.checkpoint.folder, config.checkpoint.staging)
    _check_faults(config, world)
    damaged: list[str] = []
    if rank == 0:
        _check_own_files(folder)
        require_reachable(place)
        for tier in config.checkpoint.tiers:
            # On the nodes' own disks: this host may have none such, or not write there.
            _home("checkpoint.tiers: folder", Path(tier.folder))
        newest = next(newest_first(place), None)
        _check_room(folder, place, config, begun=newest is not None)
        if newest is not None:
            damaged = _check_existing(place, config, identity, fingerprint)
        elif not config.checkpoint.tiers:  # of which this host may see none
            require_not_lost(
                folder, read_progress(folder), place, on_purpose=config.checkpoint.restart_from_zero
            )
        if newest is None and config.checkpoint.load_weights_from is not None:
            _check_weights(config.checkpoint.load_weights_from, identity)
    return Prepared(
        derived,
        train,
        validation,
        samples,
        order,
        tokenizer,
        fingerprint,
        identity,
        folder,
        place,
        passes,
        (
            *(f"checkpoint skipped: {what}" for what in damaged),
            *warnings_of(passes, train, validation, config.data.sequence_length),
            *(
                f"deepspeed.{key} has no effect (parallel.zero={config.parallel.zero}): {why}; leave it out"
                for key, why in without_effect(config.deepspeed, config.parallel.zero).items()
            ),
        ),
    )


def require_same_data(stored: RunState, ours: str, config: Config) -> None:
    """Raises UserError when a run would go on with another order of samples, unless the config says so on
    purpose."""
    if stored.data_fingerprint == ours or config.data.allow_change:
        return
    raise UserError(
        f"{config.run.folder}: the run was trained on other data or in another order "
        f"({changed_data(stored, ours, config)}); set data.allow_change=true if that is on purpose"
    )


def changed_data(stored: RunState, ours: str, config: Config) -> str | None:
    """Return what the fingerprints say of changed data; None where nothing changed."""
    if stored.data_fingerprint == ours:
        return None
    if stored.seed != config.run.seed:
        return f"run.seed is {stored.seed} there and {config.run.seed} in the config"
    pairs = zip(ORDER, stored.data_fingerprint.split("-"), ours.split("-"), strict=False)
    return "; ".join(what for what, there, now in pairs if there != now) or "unknown"


def _tokenizer(config: Config, train: TokenMixture) -> Tokenizer:
    if config.tokenizer.folder is None:
        return train.tokenizer()
    try:
        tokenizer = Tokenizer.load(Path(config.tokenizer.folder))
    except UserError as error:
        raise UserError(f"tokenizer.folder: {error}; leave it out, the shards bring their own") from None
    require(
        tokenizer.hash == train.tokenizer_hash,
        f"tokenizer.folder ({config.tokenizer.folder}) does not belong to the shards: its hash is "
        f"{tokenizer.hash[:12]}, theirs {train.tokenizer_hash[:12]}; leave it out",
    )
    return tokenizer


def _check_faults(config: Config, world: int) -> None:
    """A rehearsal that cannot strike looks like one that went well."""
    for fault in config.faults:
        require(
            fault.rank < world,
            f"faults: rank ({fault.rank}) at {fault.at} is none of the {world} ranks; it would never strike",
        )
        require(
            fault.step is None or fault.step <= config.train.steps,
            f"faults: step ({fault.step}) at {fault.at} is above train.steps ({config.train.steps}); "
            "it would never strike",
        )


def _check_own_files(folder: RunFolder) -> None:
    """Files of the run that a person may have written or damaged."""
    writable("run.folder", folder.root)
    for path in (folder.metrics, folder.events, folder.config):
        kind = "a folder" if path.is_dir() else "no regular file"
        require(path.is_file() or not path.exists(), f"{path}: is {kind}; remove it")
        require(not path.exists() or os.access(path, os.W_OK), f"{path}: cannot be written; make it writable")
    for home in (folder.logs, folder.heartbeats, folder.control):
        require(home.is_dir() or not home.exists(), f"{home}: is a file where a folder belongs; remove it")
    read_records(folder)
    with suppress(FailedWork):  # damaged: `take_lease` sees whether somebody still holds the run
        read_holder(folder)


def _check_weights(source: str, identity: Identity) -> None:
    try:
        there = has_manifest(source)
    except OSError as error:
        raise FailedWork(f"checkpoint.load_weights_from ({source}): {error.strerror or error}") from None
    require(
        there,
        f"checkpoint.load_weights_from ({source}): no checkpoint there ({MANIFEST}); "
        "name a folder like RUN/checkpoints/step-00001000",
    )
    checkpoint = Checkpoint(source)
    require_same_model(checkpoint, identity)
    require_whole(checkpoint, hashes=False)


def _check_existing(place: Place, config: Config, identity: Identity, fingerprint: str) -> list[str]:
    """The newest checkpoint with all its files belongs to this run. That there is none is told here where no
    other tier could have one. Returns what is wrong with newer ones."""
    damaged: list[str] = []
    for name in newest_first(place):
        try:
            checkpoint = Checkpoint(name, place)
        except FailedWork as error:
            damaged.append(f"{name}: {error}")
            continue
        if faulty := checkpoint.damaged(hashes=False):
            damaged.append(f"{name}: {'; '.join(faulty[:3])}")
            continue
        require_same_model(checkpoint, identity)
        require_same_precision(checkpoint, identity, allow_change=config.checkpoint.allow_precision_change)
        require_same_data(checkpoint.manifest.state, fingerprint, config)
        folder, state = RunFolder(Path(config.run.folder)), checkpoint.manifest.state
        require_left_out(folder, read_progress(folder, steps=False), read_records(folder), state.skipped)
        done = state.step
        require(
            done <= config.train.steps,
            f"train.steps ({config.train.steps}) is below the step that {config.run.folder} has reached "
            f"({done}); raise it, or choose another run.folder",
        )
        return damaged
    if not config.checkpoint.tiers:
        raise FailedWork(none_whole(place, damaged))
    return damaged


def _check_room(folder: RunFolder, place: Place, config: Config, *, begun: bool) -> None:
    """Folders that can be written, with room for one checkpoint more than are kept: a new one is whole before
    an old one goes."""
    writable("run.folder", folder.root)
    if not isinstance(place, LocalPlace):
        return
    key = "run.folder" if config.checkpoint.folder is None else "checkpoint.folder"
    root = folder.root if config.checkpoint.folder is None else place.root
    home = writable(key, root)
    size = STATE_BYTES * count_parameters(config.model).total
    wanted = size if begun else size * (config.checkpoint.keep + 1)
    free = shutil.disk_usage(home).free
    require(
        free > wanted,
        f"{key} ({root}): no room for checkpoints: {free / 2**30:.1f} GiB free, "
        f"{wanted / 2**30:.1f} GiB needed; choose another disk or lower checkpoint.keep",
    )


def writable(key: str, folder: Path) -> Path:
    """The folder, or the one in which it would be made. Raises UserError where nothing can be written."""
    home = _home(key, folder)
    require(os.access(home, os.W_OK), f"{key} ({folder}): {home} cannot be written; choose another folder")
    return home


def _home(key: str, folder: Path) -> Path:
    home = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    require(home.is_dir(), f"{key} ({folder}): {home} is a file; choose another folder")
    return home
