"""Saving and loading over all ranks: what each writes, who commits, which checkpoint is taken.

A save has two parts. The ranks copy their live tensors into host memory together, at a step's end: that is
all that training waits for. Then a thread of each rank writes the rank's file; rank 0's gathers what was
written, commits by the manifest and clears away what is superfluous. They meet on the notice board, so that
no collective runs beside a step's.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from megatrain import faults
from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredBox,
    StoredTensor,
    covered_once,
    tensors_json,
    write_manifest,
)
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.read import Checkpoint, committed
from megatrain.checkpoint.retention import Retention, remove_checkpoint, superfluous_folders
from megatrain.checkpoint.staging import Staging, live_chunks, own, own_boxes
from megatrain.checkpoint.storage import FileInfo, write_hashed
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.board import Board
from megatrain.parallel.collectives import broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunState, checkpoint_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """How a save went, alike on all ranks."""

    step: int
    bytes: int
    seconds: float
    """From the copy to the commit."""
    error: str | None
    """Why it was not committed; training goes on and the older checkpoints stay."""


@dataclass(frozen=True)
class Found:
    """Where a run can go on."""

    name: str | None
    """None: there is no checkpoint yet."""
    damaged: tuple[str, ...]
    """Newer ones that were passed over: "step-00000200: what"."""


@dataclass(frozen=True)
class Identity:
    """What a checkpoint is of; stored with it, compared when a run goes on."""

    model: dict[str, Any]
    tokenizer: str
    precision: dict[str, str]
    layout: dict[str, int]


@dataclass(frozen=True)
class Facts:
    """What a manifest tells besides the tensors."""

    state: RunState
    identity: Identity
    loss: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class StoreSettings:
    retention: Retention
    verify: bool = True
    """Compare hashes when a checkpoint is read."""
    background: bool = True
    """Write from a copy while training goes on; else training waits."""
    timeout_s: float = 3600.0
    """A rank that has not written its part by then fails the save."""


def may_commit() -> str | None:
    """For runs without a lease."""
    return None


class Store:
    """The checkpoints of one run in one place, on all ranks."""

    def __init__(
        self,
        place: Place,
        context: ParallelContext,
        settings: StoreSettings,
        lost: Callable[[], str | None] = may_commit,
    ) -> None:
        """Collective. `lost` says on rank 0 why this attempt must not commit any more, or None."""
        self.place, self.context, self.settings = place, context, settings
        self._lost = lost
        self._board = Board(context.world.size)
        self._prefix = broadcast_object(f"checkpoint-{uuid.uuid4().hex}", context.world)
        self._saves = 0
        self._staging: Staging | None = None
        self._plan: _Plan | None = None
        self._thread: threading.Thread | None = None
        self._results: deque[Saved] = deque()

    # --- saving ---

    def reserve(self, held: Sequence[Held]) -> None:
        """Take the memory of the copies now, so that it is not missing, or slow to get, at the first save."""
        if self.settings.background and self._staging is None:
            self._staging = Staging(held)

    def save(self, held: Sequence[Held], facts: Facts) -> float:
        """Collective. Begin a save, after the one that is under way; gives the seconds that training was held
        up.

        What became of it is told by `finished` or `wait`. A failed save is reported, never raised. A
        checkpoint of the same step (damaged, or of other samples) is replaced when this one is whole.
        """
        started = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
        self._saves += 1
        self._boxes_known(held)
        if self.settings.background:
            self.reserve(held)
            assert self._staging is not None
            self._staging.copy(held)
            chunks: Iterable[memoryview] = self._staging.chunks()
        else:
            chunks = live_chunks(held)
        arguments = (self._saves, chunks, bool(own(held)), facts, started)
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()
        if not self.settings.background:
            self._thread.join()
        return time.perf_counter() - started

    @property
    def busy(self) -> bool:
        """A save of this rank is under way."""
        return self._thread is not None and self._thread.is_alive()

    def finished(self) -> list[Saved]:
        """What became of the saves that are over on this rank, each told once."""
        told = []
        while self._results:
            told.append(self._results.popleft())
        return told

    def wait(self, timeout_s: float | None = None) -> list[Saved]:
        """`finished`, when the save that is under way is over, or the time is."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self.finished()

    def _boxes_known(self, held: Sequence[Held]) -> None:
        """Tell rank 0 once which boxes this rank writes: they stay the same."""
        if self._saves == 1:
            boxes = [asdict(one) for one in own_boxes(own(held))]
            self._board.post(f"{self._prefix}/boxes/{self.context.world.rank}", json.dumps(boxes))

    def _write(
        self, number: int, chunks: Iterable[memoryview], any_own: bool, facts: Facts, started: float
    ) -> None:
        """The thread of each rank, for one save."""
        rank = self.context.world.rank
        name = checkpoint_name(facts.state.step)
        try:
            note = self._write_file(name, chunks, any_own, facts.state.attempt)
            self._board.post(f"{self._prefix}/{number}/share/{rank}", json.dumps(note))
            if rank == 0:
                outcome = self._conclude(number, name, facts)
                self._board.post(f"{self._prefix}/{number}/outcome", json.dumps(outcome))
            else:
                # Rank 0 waits for the others as long; then it says so.
                text = self._board.read(f"{self._prefix}/{number}/outcome", 2 * self.settings.timeout_s)
                outcome = json.loads(text)
            size, error = int(outcome["bytes"]), outcome["error"]
        except OSError as failure:
            size, error = 0, f"rank {rank}: {failure}"
        except Exception as failure:  # a mistake of ours must not end a run that could go on
            logger.exception("step %d could not be saved", facts.state.step)
            size, error = 0, f"rank {rank}: {type(failure).__name__}: {failure}"
        self._results.append(Saved(facts.state.step, size, time.perf_counter() - started, error))

    def _write_file(
        self, name: str, chunks: Iterable[memoryview], any_own: bool, attempt: int
    ) -> dict[str, Any]:
        """This rank's note: its file, none, or what went wrong."""
        if not any_own:
            return {}
        # The attempt is in the name, so that a stale rank of an earlier attempt never mixes in.
        path = f"{name}/attempt-{attempt:05d}-rank-{self.context.world.rank:05d}.safetensors"
        try:
            faults.point("checkpoint.write", rank=self.context.world.rank)
            info = write_hashed(self.place, path, chunks)
            faults.point("checkpoint.written", rank=self.context.world.rank)
            return asdict(info)
        except OSError as error:
            return {"error": f"{self.place}/{path}: {error.strerror or error}"}

    # --- rank 0, in its thread ---

    def _conclude(self, number: int, name: str, facts: Facts) -> dict[str, Any]:
        """Gather what the ranks wrote, commit, clear away."""
        notes = self._gather(number)
        errors = [f"rank {rank}: {note['error']}" for rank, note in enumerate(notes) if "error" in note]
        if not errors:
            files = {rank: FileInfo(**note) for rank, note in enumerate(notes) if note}
            error = self._commit(name, files, facts)
            errors = [error] if error else []
        try:
            if errors:
                self._sweep(name, facts.state.attempt, notes)
                return {"bytes": 0, "error": "; ".join(errors[:3])}
            self._prune(name, {note["name"] for note in notes if note})
        except OSError as error:  # what is left over does no harm; the next save tries again
            logger.warning("%s: not all that is superfluous could be removed: %s", self.place, error)
        return {"bytes": sum(file.bytes for file in files.values()), "error": None}

    def _gather(self, number: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + self.settings.timeout_s
        notes = []
        for rank in range(self.context.world.size):
            key = f"{self._prefix}/{number}/share/{rank}"
            try:
                left = max(0.001, deadline - time.monotonic())
                notes.append(json.loads(self._board.read(key, left)))
                self._board.take_down(key)
            except TimeoutError:
                limit = self.settings.timeout_s
                notes.append({"error": f"its part was not written within {limit:g} s", "late": True})
        return notes

    def _commit(self, name: str, files: dict[int, FileInfo], facts: Facts) -> str | None:
        """The manifest appears last; why not, if it does not."""
        if self._plan is None:
            self._plan = self._make_plan(list(files))
        reason = self._lost()
        if reason is not None:
            return reason
        manifest = Manifest(
            state=facts.state,
            model=facts.identity.model,
            tokenizer=facts.identity.tokenizer,
            precision=facts.identity.precision,
            layout=facts.identity.layout,
            loss=facts.loss,
            validation_loss=facts.validation_loss,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(files[rank] for rank in self._plan.ranks),
            tensors={},
        )
        try:
            faults.point("checkpoint.commit", rank=0)
            write_manifest(self.place, name, manifest, self._plan.tensors)
            faults.point("checkpoint.committed", rank=0)
        except OSError as error:
            return f"{self.place}/{name}/{MANIFEST}: {error.strerror or error}"
        return None

    def _make_plan(self, ranks: list[int]) -> _Plan:
        """Which rank holds which boxes: the same in every checkpoint of this attempt."""
        tensors: dict[str, list[StoredBox]] = {}
        kinds: dict[str, tuple[tuple[int, ...], str]] = {}
        for number, rank in enumerate(ranks):
            text = self._board.read(f"{self._prefix}/boxes/{rank}", self.settings.timeout_s)
            for one in json.loads(text):
                box = Box(tuple(one["box"]["offset"]), tuple(one["box"]["shape"]))
                tensors.setdefault(one["tensor"], []).append(StoredBox(box, number))
                kinds[one["tensor"]] = (tuple(one["shape"]), one["dtype"])
        for name, (shape, _) in kinds.items():
            boxes = [stored.box for stored in tensors[name]]
            assert covered_once(shape, boxes), f"{name}: boxes do not fill it"
        whole = {name: StoredTensor(*kinds[name], tuple(stored)) for name, stored in tensors.items()}
        return _Plan(tuple(ranks), tensors_json(whole))

    def _sweep(self, name: str, attempt: int, notes: Sequence[dict[str, Any]]) -> None:
        """Of a failed save the room is given back; not while a late rank may still be writing."""
        if not any("late" in note for note in notes) and self._lost() is None:
            for file in self.place.files(name):
                if file.startswith(f"attempt-{attempt:05d}-"):
                    self.place.remove(f"{name}/{file}")

    def _prune(self, name: str, files: set[str]) -> None:
        """Delete what retention does not keep, what was never committed before the newest, and what an
        attempt that was killed left where this checkpoint, with these files, is now."""
        for file in self.place.files(name):
            if file != MANIFEST and file not in files:
                self.place.remove(f"{name}/{file}")
        for folder in superfluous_folders(self.place, self.settings.retention):
            faults.point("checkpoint.prune", rank=0)
            remove_checkpoint(self.place, folder)

    # --- finding ---

    def find(self) -> Found:
        """Collective. The newest whole checkpoint; rank 0 looks, each rank checks its share of the files.

        Raises FailedWork when there are checkpoints but none is whole.
        """
        world = self.context.world
        names, error = broadcast_object(self._names() if world.rank == 0 else None, world)
        if error is not None:
            raise FailedWork(f"checkpoints cannot be looked for in {self.place}: {error}")
        damaged: list[str] = []
        for name in names:
            faulty = [what for rank in gather_objects(self._faults(name), world) for what in rank]
            if not faulty:
                return Found(name, tuple(damaged))
            damaged.append(f"{name}: {'; '.join(faulty[:3])}")
        if damaged:
            raise FailedWork(
                f"{self.place}: no checkpoint is whole ({' | '.join(damaged)}); "
                "restore one of them, or move the folder away to start anew"
            )
        return Found(None, ())

    def _names(self) -> tuple[list[str], str | None]:
        try:
            return committed(self.place), None
        except OSError as error:
            return [], str(error)

    def open(self, name: str) -> Checkpoint:
        return Checkpoint(name, self.place)

    def _faults(self, name: str) -> list[str]:
        world = self.context.world
        try:
            return self.open(name).damaged(world.rank, world.size, hashes=self.settings.verify)
        except FailedWork as error:
            return [str(error)]


@dataclass(frozen=True)
class _Plan:
    """What stays the same in every manifest of an attempt."""

    ranks: tuple[int, ...]
    """Those that write a file, in the order of the manifest's files."""
    tensors: str
    """As JSON."""


def load(checkpoint: Checkpoint, held: Sequence[Held]) -> None:
    """Copy the checkpoint's values into this rank's boxes, whatever layout they were saved on.

    Raises FailedWork when a tensor is absent or of another shape. `fragments.after_load` must follow.
    """
    checkpoint.require_shapes({(h.tensor, h.shape) for h in held})
    for h in held:
        checkpoint.read(h.tensor, h.box, h.data)
    checkpoint.close()


def require_same_model(checkpoint: Checkpoint, identity: Identity) -> None:
    """Raises UserError naming the first difference between the checkpoint's model or tokenizer and this
    run's."""
    for key, ours in identity.model.items():
        stored = checkpoint.manifest.model.get(key)
        if stored != ours:
            raise UserError(
                f"{checkpoint} is of another model: model.{key} is {stored} there and {ours} in the "
                "config; choose another run.folder or set it back"
            )
    if checkpoint.manifest.tokenizer != identity.tokenizer:
        raise UserError(
            f"{checkpoint} was trained with another tokenizer ({checkpoint.manifest.tokenizer[:12]} "
            f"there, {identity.tokenizer[:12]} beside the shards); choose another run.folder "
            "or the other dataset"
        )


def require_same_precision(checkpoint: Checkpoint, identity: Identity, *, allow_change: bool) -> None:
    """Raises UserError when a run would go on in another precision, unless the config says so on purpose."""
    stored = checkpoint.manifest.precision  # unknown in version 1
    for key, ours in identity.precision.items():
        if not allow_change and stored is not None and stored.get(key) != ours:
            raise UserError(
                f"{checkpoint} was trained with precision.{key}={stored.get(key)}, the config says {ours}; "
                "set checkpoint.allow_precision_change=true if that is on purpose"
            )
