"""Saving and loading over all ranks: what each writes, who commits, which checkpoint is taken."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megatrain import faults
from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredBox,
    StoredTensor,
    box_key,
    covered_once,
    write_manifest,
)
from megatrain.checkpoint.read import Checkpoint, committed
from megatrain.checkpoint.storage import NAMES, Entry, FileInfo, write_safetensors
from megatrain.durable import sync_folder
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.collectives import broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunFolder, RunState


@dataclass(frozen=True)
class Saved:
    """How a save went, alike on all ranks."""

    folder: Path
    bytes: int
    seconds: float
    error: str | None
    """Why it was not committed; training goes on and the older checkpoints stay."""


@dataclass(frozen=True)
class Found:
    """Where a run can go on."""

    folder: Path | None
    """None: there is no checkpoint yet."""
    damaged: tuple[str, ...]
    """Newer ones that were passed over: "step-00000200: what"."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is of; stored with it, compared when a run goes on."""

    model: dict[str, Any]
    tokenizer: str
    layout: dict[str, int]


class Store:
    """The checkpoints of one run."""

    def __init__(self, folder: RunFolder, context: ParallelContext, *, keep: int, verify: bool) -> None:
        self.folder, self.context, self.keep, self.verify = folder, context, keep, verify

    def save(self, held: Sequence[Held], state: RunState, identity: Identity, loss: float | None) -> Saved:
        """Collective. Write every rank's boxes, then commit; a failed write is reported, never raised.

        A step that is committed already (a run that went on from its last step) is left as it is.
        """
        started = time.perf_counter()
        target = self.folder.checkpoint(state.step)
        exists = broadcast_object((target / MANIFEST).exists(), self.context.world)
        if exists:
            return Saved(target, 0, time.perf_counter() - started, None)
        written = self._write_share(target, held, state.attempt)
        shares = gather_objects(written, self.context.world)
        errors = [f"rank {rank}: {share}" for rank, share in enumerate(shares) if isinstance(share, str)]
        if not errors:
            error = (
                self._commit(target, shares, state, identity, loss) if self.context.world.rank == 0 else None
            )
            error = broadcast_object(error, self.context.world)
            errors = [error] if error else []
        size = sum(share.info.bytes for share in shares if isinstance(share, _Share) and share.info)
        if not errors and self.context.world.rank == 0:
            self._prune(target, {share.info.name for share in shares if share.info is not None})
        return Saved(target, size, time.perf_counter() - started, "; ".join(errors) or None)

    def find(self) -> Found:
        """Collective. The newest whole checkpoint; rank 0 looks, each rank checks its share of the files.

        Raises FailedWork when there are checkpoints but none is whole.
        """
        world = self.context.world
        names = [path.name for path in committed(self.folder.checkpoints)] if world.rank == 0 else []
        damaged: list[str] = []
        for name in broadcast_object(names, world):
            path = self.folder.checkpoints / name
            faulty = [what for rank in gather_objects(self._faults(path), world) for what in rank]
            if not faulty:
                return Found(path, tuple(damaged))
            damaged.append(f"{name}: {'; '.join(faulty[:3])}")
        if damaged:
            raise FailedWork(
                f"{self.folder.checkpoints}: no checkpoint is whole ({' | '.join(damaged)}); "
                "restore one of them, or move the folder away to start anew"
            )
        return Found(None, ())

    def _faults(self, path: Path) -> list[str]:
        world = self.context.world
        try:
            return Checkpoint(path).damaged(world.rank, world.size, hashes=self.verify)
        except FailedWork as error:
            return [str(error)]

    def _write_share(self, target: Path, held: Sequence[Held], attempt: int) -> _Share | str:
        """This rank's file, or what went wrong, as text."""
        own = sorted((h for h in held if h.owner), key=lambda h: (h.tensor, h.box))
        boxes = [(h.tensor, h.shape, NAMES[h.data.dtype], h.box) for h in own]
        if not own:
            return _Share(None, [])
        # The attempt is in the name, so that a stale rank of an earlier attempt never mixes in.
        name = f"attempt-{attempt:05d}-rank-{self.context.world.rank:05d}.safetensors"
        try:
            target.mkdir(parents=True, exist_ok=True)
            faults.point("checkpoint.write", rank=self.context.world.rank)
            entries = [Entry(box_key(h.tensor, h.box), h.data.dtype, tuple(h.data.shape)) for h in own]
            return _Share(write_safetensors(target / name, entries, (h.data for h in own)), boxes)
        except OSError as error:
            return f"{target / name}: {error.strerror or error}"

    def _commit(
        self, target: Path, shares: list[Any], state: RunState, identity: Identity, loss: float | None
    ) -> str | None:
        """On rank 0: the manifest appears last."""
        tensors: dict[str, list[StoredBox]] = defaultdict(list)
        kinds: dict[str, tuple[tuple[int, ...], str]] = {}
        files: list[FileInfo] = []
        for share in shares:
            if share.info is None:
                continue
            for tensor, shape, dtype, box in share.boxes:
                tensors[tensor].append(StoredBox(box, len(files)))
                kinds[tensor] = (shape, dtype)
            files.append(share.info)
        for name, (shape, _) in kinds.items():
            assert covered_once(shape, [stored.box for stored in tensors[name]]), (
                f"{name}: boxes do not fill it"
            )
        manifest = Manifest(
            state=state,
            model=identity.model,
            tokenizer=identity.tokenizer,
            layout=identity.layout,
            loss=loss,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(files),
            tensors={name: StoredTensor(*kinds[name], tuple(stored)) for name, stored in tensors.items()},
        )
        try:
            faults.point("checkpoint.commit", rank=0)
            write_manifest(target, manifest)
            sync_folder(target.parent)
        except OSError as error:
            return f"{target / MANIFEST}: {error.strerror or error}"
        return None

    def _prune(self, target: Path, files: set[str]) -> None:
        """Delete all but the newest `keep`, what was never committed before the newest, and what an attempt
        that was killed left where `target`, with these files, is now."""
        for path in target.iterdir():
            if path.name != MANIFEST and path.name not in files:
                with contextlib.suppress(OSError):  # rubbish does no harm
                    path.unlink()
        kept = committed(self.folder.checkpoints)
        newest = int(kept[0].name[5:])
        for path in self.folder.checkpoints.glob("step-*"):
            old = path in kept[self.keep :]
            unfinished = path not in kept and path.name[5:].isdigit() and int(path.name[5:]) < newest
            if old:  # the marker comes off first
                (path / MANIFEST).unlink(missing_ok=True)
            if old or unfinished:
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Share:
    """What one rank wrote; no file when it owns nothing."""

    info: FileInfo | None
    boxes: list[tuple[str, tuple[int, ...], str, Box]]


def load(checkpoint: Checkpoint, held: Sequence[Held]) -> None:
    """Copy the checkpoint's values into this rank's boxes, whatever layout they were saved on.

    Raises FailedWork when a tensor is absent or of another shape. `fragments.after_load` must follow.
    """
    checkpoint.require_shapes({(h.tensor, h.shape) for h in held})
    for h in held:
        checkpoint.read(h.tensor, h.box, h.data)


def require_same_model(checkpoint: Checkpoint, identity: Identity) -> None:
    """Raises UserError naming the first difference between the checkpoint's model or tokenizer and this
    run's."""
    for key, ours in identity.model.items():
        stored = checkpoint.manifest.model.get(key)
        if stored != ours:
            raise UserError(
                f"{checkpoint.folder} is of another model: model.{key} is {stored} there and {ours} in the "
                "config; choose another run.folder or set it back"
            )
    if checkpoint.manifest.tokenizer != identity.tokenizer:
        raise UserError(
            f"{checkpoint.folder} was trained with another tokenizer ({checkpoint.manifest.tokenizer[:12]} "
            f"there, {identity.tokenizer[:12]} beside the shards); choose another run.folder "
            "or the other dataset"
        )
