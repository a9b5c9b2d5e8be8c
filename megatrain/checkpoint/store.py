"""Saving and loading over all ranks: what each writes, and which checkpoint is taken.

A save has two parts. The ranks copy their live tensors into host memory together, at a step's end: that is
all that training waits for. Then a thread of each rank writes the rank's file, and they commit (`commit.py`)
over the notice board, so that no collective runs beside a step's.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from megatrain import faults
from megatrain.checkpoint.belonging import none_whole
from megatrain.checkpoint.commit import Committer, Facts, file_name
from megatrain.checkpoint.fragments import Held
from megatrain.checkpoint.manifest import MANIFEST, Manifest, parse_manifest, read_manifest
from megatrain.checkpoint.near import exchange, fetch, transfers_for
from megatrain.checkpoint.read import Checkpoint, checkpoint_folders, damage_of
from megatrain.checkpoint.retention import remove_checkpoint
from megatrain.checkpoint.staging import Staging, live_chunks, own, own_boxes
from megatrain.checkpoint.storage import write_hashed
from megatrain.checkpoint.tier import MAIN, Tier, describe
from megatrain.errors import FailedWork, UserError
from megatrain.parallel.board import Board
from megatrain.parallel.collectives import broadcast_object, gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.state import RunState, step_of

logger = logging.getLogger(__name__)
Chunks = Callable[[], Iterable[memoryview]]
Fits = Callable[[RunState], bool]


@dataclass(frozen=True)
class Saved:
    """How a save into one tier went, alike on all ranks."""

    step: int
    tier: str
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
    tier: Tier
    damaged: tuple[str, ...]
    """Newer ones that were passed over: "step-00000200: what"."""
    where: dict[str, list[int]]
    """On a near tier: file → the nodes that have it whole."""


def any_state(state: RunState) -> bool:
    """For runs that were never rolled back."""
    return True


def any_step(step: int) -> bool:
    """Every checkpoint is read."""
    return True


def may_commit() -> str | None:
    """For runs without a lease."""
    return None


class Store:
    """The checkpoints of one run, on all ranks."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        context: ParallelContext,
        *,
        verify: bool = True,
        background: bool = True,
        timeout_s: float = 3600.0,
        lost: Callable[[], str | None] = may_commit,
    ) -> None:
        """Collective. The main tier comes first.

        verify: compare hashes when a checkpoint is read. background: write from a copy while training goes
        on; else training waits. timeout_s: a rank that has not written its part by then fails the save. lost:
        says on rank 0 why this attempt must not commit any more, or None.
        """
        assert tiers[0].name == MAIN
        self.tiers, self.context = tuple(tiers), context
        self._verify, self._background = verify, background
        prefix = broadcast_object(f"checkpoint-{uuid.uuid4().hex}", context.world)
        world = context.world
        self._committer = Committer(Board(world.size), prefix, world.rank, world.size, timeout_s, lost)
        self._saves = 0
        self._staging: Staging | None = None
        self._thread: threading.Thread | None = None
        self._results: deque[Saved] = deque()

    # --- saving ---

    def reserve(self, held: Sequence[Held]) -> None:
        """Take the memory of the copies now, so that it is not missing, or slow to get, at the first save."""
        if self._background and self._staging is None:
            self._staging = Staging(held)

    def save(self, held: Sequence[Held], facts: Facts, tiers: Sequence[str] = (MAIN,)) -> float:
        """Collective. Begin a save, after the one that is under way; gives the seconds that training was held
        up.

        What became of it is told by `finished` or `wait`. A failed save is reported, never raised. A
        checkpoint of the same step (damaged, or of other samples) is replaced when this one is whole.
        """
        started = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
        self._saves += 1
        if self._saves == 1:
            self._committer.tell_boxes([asdict(one) for one in own_boxes(own(held))])
        chunks: Chunks | None = None
        if self._background:
            self.reserve(held)
            assert self._staging is not None
            self._staging.copy(held)
            chunks = self._staging.chunks
        else:
            chunks = _live(held)
        chosen = [tier for tier in self.tiers if tier.name in tiers]
        job = _Job(self._saves, chosen, chunks if own(held) else None, facts, started)
        self._thread = threading.Thread(target=self._work, args=(job,), name="checkpoint", daemon=True)
        self._thread.start()
        if not self._background:
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

    def _work(self, job: _Job) -> None:
        """The thread of each rank, for one save: nearest tier first."""
        rank = self.context.world.rank
        for tier in reversed(job.tiers):
            try:
                note = self._write(tier, job)
                outcome = self._committer.conclude(tier, job.number, job.facts, note)
                size, error = int(outcome["bytes"]), outcome["error"]
            except OSError as failure:
                size, error = 0, f"rank {rank}: {failure}"
            except Exception as failure:  # a mistake of ours must not end a run that could go on
                logger.exception("step %d could not be saved", job.facts.state.step)
                size, error = 0, f"rank {rank}: {type(failure).__name__}: {failure}"
            seconds = time.perf_counter() - job.started
            self._results.append(Saved(job.facts.state.step, tier.name, size, seconds, error))

    def _write(self, tier: Tier, job: _Job) -> dict[str, Any]:
        """This rank's note: its file, none, or what went wrong; on a near tier also a neighbour's copy."""
        rank, facts = self.context.world.rank, job.facts
        note: dict[str, Any] = {}
        path = f"{facts.name}/{file_name(facts.state.attempt, rank)}"
        try:
            if job.chunks is not None:
                faults.point("checkpoint.write", rank=rank)
                note["file"] = asdict(write_hashed(tier.place, path, job.chunks()))
                faults.point("checkpoint.written", rank=rank)
        except OSError as error:
            note["error"] = f"{tier.place}/{path}: {error.strerror or error}"
        except Exception as error:  # the others must hear of it
            logger.exception("%s could not be written", path)
            note["error"] = f"{tier.place}/{path}: {type(error).__name__}: {error}"
        if tier.copies:
            note |= self._copy(tier, job)
        return note

    def _copy(self, tier: Tier, job: _Job) -> dict[str, Any]:
        """Collective. Send this rank's file to its partner, and keep that of another."""
        nodes = tier.nodes
        assert nodes is not None
        (source,) = [r for r in range(len(nodes.of_rank)) if nodes.partner(r) == nodes.rank]
        path = f"{job.facts.name}/{file_name(job.facts.state.attempt, source)}"
        coming = exchange(nodes, job.chunks() if job.chunks is not None else ())
        try:
            first = next(coming, None)
            if first is None:
                return {}
            try:
                kept = write_hashed(tier.place, path, _prepended(first, coming))
            except OSError as error:
                for _ in coming:  # the partners count on this rank
                    pass
                return {"error": f"{tier.place}/{path}: {error.strerror or error}"}
            return {"copy_of": source, "copy": asdict(kept)}
        except OSError as error:
            return {"error": f"copies between nodes: {error}"}

    # --- finding ---

    def find(self, fits: Fits = any_state) -> Found:
        """Collective. The newest whole checkpoint of all tiers whose state fits; each rank checks its share
        of the files.

        Raises FailedWork when there are such checkpoints but none is whole.
        """
        damaged: list[str] = []
        for tier, name in self._candidates():
            if not self._worth_a_look(tier, name, fits):
                continue
            where, faulty = self._checked(tier, name)
            if not faulty:
                return Found(name, tier, tuple(damaged), where)
            damaged.append(f"{describe(tier, name)}: {'; '.join(faulty[:3])}")
            self._committer.damaged.setdefault(tier.name, set()).add(name)
        if damaged:
            raise FailedWork(none_whole(self.tiers[0].place, damaged))
        return Found(None, self.tiers[0], (), {})

    def forget(self, fits: Fits, may_be: Callable[[int], bool] = any_step) -> None:
        """Collective. Remove the checkpoints whose state does not fit, from all tiers, marker first; only
        those of steps that `may_be` such are read.

        Raises FailedWork when one cannot be removed.
        """
        error = None
        try:
            for tier in self.tiers:
                if self.context.world.rank in tier.keepers:
                    for name in checkpoint_folders(tier.place):
                        state = _state_of(tier, name) if may_be(step_of(name)) else None
                        if state is not None and not fits(state):
                            remove_checkpoint(tier.place, name)
                            self._committer.forget(tier, name)
        except OSError as failure:
            error = f"rank {self.context.world.rank}: a checkpoint cannot be removed: {failure}"
        for failed in gather_objects(error, self.context.world):
            if failed is not None:
                raise FailedWork(failed)

    def open(self, found: Found, held: Sequence[Held]) -> Checkpoint:
        """Collective. The checkpoint that was found, with all files in reach that hold a part of `held`."""
        assert found.name is not None
        nodes = found.tier.nodes
        if nodes is None:
            return Checkpoint(found.name, found.tier.place)
        text = self._manifest_of(found.tier, found.name)
        manifest = parse_manifest(text.encode(), found.name, found.name)
        needs = [(nodes.node, sorted(_files_for(manifest, held)))]
        wanted: dict[int, set[str]] = {}
        for (node, names), *_ in gather_objects(needs, self.context.world):
            wanted.setdefault(node, set()).update(names)
        error = None
        try:
            fetch(nodes, found.tier.local, found.name, transfers_for(wanted, found.where))
            if nodes.rank in nodes.firsts:
                found.tier.place.write(f"{found.name}/{MANIFEST}", [memoryview(text.encode())])
        except (OSError, FailedWork) as failure:
            error = f"rank {nodes.rank}: {failure}"
        for failed in gather_objects(error, self.context.world):
            if failed is not None:
                raise FailedWork(failed)
        return Checkpoint(found.name, found.tier.place, parted=True)

    def _candidates(self) -> list[tuple[Tier, str]]:
        """Folders named like checkpoints, newest first, of the same step the nearest first; identical on all
        ranks. Which of them have a manifest is asked one by one: the first that is good ends the search."""
        found: list[tuple[int, int, str]] = []
        for number, tier in enumerate(self.tiers):
            names: list[str] = []
            error = None
            if self.context.world.rank in tier.keepers:
                try:
                    names = checkpoint_folders(tier.place)
                except OSError as failure:
                    error = str(failure)
            listed = gather_objects((names, error), self.context.world)
            for _, failed in listed:
                if failed is not None:
                    raise FailedWork(f"checkpoints cannot be looked for in {tier.place}: {failed}")
            found += [(step_of(name), number, name) for name in {n for names, _ in listed for n in names}]
        return [(self.tiers[number], name) for _, number, name in sorted(found, reverse=True)]

    def _worth_a_look(self, tier: Tier, name: str, fits: Fits) -> bool:
        """Collective. Whether a keeper has a manifest there, and its state fits. Of a manifest that no keeper
        can read, `_checked` reports what is wrong."""
        own: tuple[bool, dict[str, Any] | None] = (False, None)
        if self.context.world.rank in tier.keepers and _has_manifest(tier, name):
            state = _state_of(tier, name)
            own = True, None if state is None else state.to_json()
        answers = gather_objects(own, self.context.world)
        states = [RunState.from_json(state) for _, state in answers if state is not None]
        return any(there for there, _ in answers) and (not states or fits(states[0]))

    def _checked(self, tier: Tier, name: str) -> tuple[dict[str, list[int]], list[str]]:
        """Collective. Which node has which file whole (on near tiers), and what is wrong with it."""
        world = self.context.world
        if tier.nodes is None:
            try:
                faults_ = Checkpoint(name, tier.place).damaged(world.rank, world.size, hashes=self._verify)
            except FailedWork as error:
                faults_ = [str(error)]
            # Of a broken manifest all ranks say the same.
            return {}, list(dict.fromkeys(what for found in gather_objects(faults_, world) for what in found))
        try:
            manifest = parse_manifest(self._manifest_of(tier, name).encode(), name, name)
        except FailedWork as error:
            return {}, [str(error)]
        own_ranks = tier.nodes.ranks(tier.nodes.node)
        share = manifest.files[own_ranks.index(world.rank) :: len(own_ranks)]
        whole = [
            info.name for info in share if damage_of(tier.place, name, info, hashes=self._verify) is None
        ]
        where: dict[str, list[int]] = {}
        for node, names in gather_objects((tier.nodes.node, whole), world):
            for file in names:
                where.setdefault(file, []).append(node)
        return where, [f"{f.name}: no node has it whole" for f in manifest.files if f.name not in where]

    def _manifest_of(self, tier: Tier, name: str) -> str:
        """Collective. The manifest's text from the first node that has a sound one. Raises FailedWork."""
        text = None
        if self.context.world.rank in tier.keepers:
            try:
                text = tier.place.read(f"{name}/{MANIFEST}").decode()
                parse_manifest(text.encode(), name, name)
            except (OSError, UnicodeDecodeError, FailedWork, UserError):
                text = None
        for found in gather_objects(text, self.context.world):
            if found is not None:
                return str(found)
        raise FailedWork(f"{name}: no node has a sound manifest")


@dataclass(frozen=True)
class _Job:
    """One save, on one rank."""

    number: int
    tiers: Sequence[Tier]
    chunks: Chunks | None
    """The bytes of this rank's file, from the beginning at each call; None where it owns nothing."""
    facts: Facts
    started: float


def _has_manifest(tier: Tier, name: str) -> bool:
    """Also true where that cannot be found out, so that it is reported."""
    try:
        return tier.place.exists(f"{name}/{MANIFEST}")
    except OSError:
        return True


def _state_of(tier: Tier, name: str) -> RunState | None:
    """What a checkpoint's manifest says; None where it cannot be read."""
    try:
        return read_manifest(tier.place, name).state
    except (FailedWork, UserError):
        return None


def _live(held: Sequence[Held]) -> Chunks:
    return lambda: live_chunks(held)


def _prepended(first: memoryview, rest: Iterable[memoryview]) -> Iterable[memoryview]:
    yield first
    yield from rest


def _files_for(manifest: Manifest, held: Sequence[Held]) -> set[str]:
    """Names of the files that hold a part of these boxes."""
    numbers = {
        stored.file
        for h in held
        if h.tensor in manifest.tensors
        for stored in manifest.tensors[h.tensor].boxes
        if stored.box.intersect(h.box) is not None
    }
    return {manifest.files[number].name for number in numbers}


def load(checkpoint: Checkpoint, held: Sequence[Held]) -> None:
    """Copy the checkpoint's values into this rank's boxes, whatever layout they were saved on.

    Raises FailedWork when a tensor is absent or of another shape.
    """
    checkpoint.require_shapes({(h.tensor, h.shape) for h in held})
    for h in held:
        checkpoint.read(h.tensor, h.box, h.data)
    checkpoint.close()
