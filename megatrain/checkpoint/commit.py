"""What turns the ranks' files into a checkpoint: their notes gathered, the manifest written last, the rest
cleared.

For each save and tier, over the notice board:

1. each rank writes its file and posts a note of it: size, hash, or what went wrong; 2. rank 0 gathers the
notes and posts its verdict: the manifest, or that there will be none; 3. each keeper (rank 0; on near tiers
the first rank of each node) puts the manifest into place, or clears the files away, and posts that it has; 4.
rank 0 posts the outcome, which every rank waits for.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from megatrain import faults
from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredBox,
    StoredTensor,
    covered_once,
    manifest_text,
    tensors_json,
)
from megatrain.checkpoint.retention import Inventory, remove_checkpoint, superfluous_folders
from megatrain.checkpoint.storage import FileInfo
from megatrain.checkpoint.tier import Tier
from megatrain.parallel.board import Board
from megatrain.state import RunState, checkpoint_name

logger = logging.getLogger(__name__)
Note = dict[str, Any]


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

    @property
    def name(self) -> str:
        """Of the checkpoint's folder."""
        return checkpoint_name(self.state.step)


def file_name(attempt: int, rank: int) -> str:
    """The attempt is in it, so that a stale rank of an earlier attempt never mixes in."""
    return f"attempt-{attempt:05d}-rank-{rank:05d}.safetensors"


class Committer:
    """Each rank's side of committing; rank 0's does more."""

    def __init__(
        self,
        board: Board,
        prefix: str,
        rank: int,
        world_size: int,
        timeout_s: float,
        lost: Callable[[], str | None],
    ) -> None:
        """`lost` says on rank 0 why this attempt must not commit any more, or None."""
        self._board, self._prefix, self._rank, self._size = board, prefix, rank, world_size
        self._timeout_s, self._lost = timeout_s, lost
        self._plan: _Plan | None = None
        self.damaged: dict[str, set[str]] = {}
        """By tier: checkpoints that were passed over."""
        self.inventories: dict[str, Inventory] = {}
        """By tier: what its place holds, as far as this rank looks after it."""

    def tell_boxes(self, boxes: Sequence[Note]) -> None:
        """Once a run, for they stay the same: which boxes this rank writes."""
        self._board.post(f"{self._prefix}/boxes/{self._rank}", json.dumps(boxes))

    def forget(self, tier: Tier, name: str) -> None:
        """A checkpoint was removed by somebody else than retention."""
        if tier.name in self.inventories:
            self.inventories[tier.name].forget(name)

    def conclude(self, tier: Tier, number: int, facts: Facts, note: Note) -> Note:
        """Of this rank's note make the outcome, alike on all ranks: {"bytes", "error"}. Raises OSError."""
        key = f"{self._prefix}/{number}/{tier.name}"
        self._board.post(f"{key}/share/{self._rank}", json.dumps(note))
        if self._rank == 0:
            outcome = self._preside(tier, key, facts)
            self._board.post(f"{key}/outcome", json.dumps(outcome))
            return outcome
        if self._rank in tier.keepers:
            verdict = self._read(f"{key}/verdict", 2)
            self._board.post(f"{key}/kept/{self._rank}", json.dumps(self._keep(tier, facts, verdict)))
        return self._read(f"{key}/outcome", 3)

    def _read(self, key: str, patience: int) -> Note:
        """Rank 0 waits for the others as long as it is told; the others wait longer, to hear from it."""
        note: Note = json.loads(self._board.read(key, patience * self._timeout_s))
        return note

    # --- rank 0 ---

    def _preside(self, tier: Tier, key: str, facts: Facts) -> Note:
        notes = self._gather(f"{key}/share", range(self._size), "its part was not written")
        errors = _errors(notes)
        verdict: Note = {"late": any("late" in note for note in notes.values())}
        files = {rank: FileInfo(**note["file"]) for rank, note in notes.items() if "file" in note}
        if not errors:
            try:
                reason = self._lost()
            except OSError as error:
                reason = f"whether this attempt still holds the run is not known: {error}"
            errors = [reason] if reason is not None else _bad_copies(notes)
        if not errors:
            verdict["manifest"] = self._manifest(facts, files)
            verdict["files"] = {file.name: file.xxh3 for file in files.values()}
        others = [rank for rank in tier.keepers if rank != 0]
        if others:
            self._board.post(f"{key}/verdict", json.dumps(verdict))
        kept = {0: self._keep(tier, facts, verdict)}
        kept |= self._gather(f"{key}/kept", others, "it did not keep the manifest")
        errors = errors or _errors(kept)
        size = sum(file.bytes for file in files.values())
        return {"bytes": 0 if errors else size, "error": "; ".join(errors[:3]) or None}

    def _gather(self, key: str, ranks: Sequence[int] | range, what: str) -> dict[int, Note]:
        """The ranks' notes, or that they did not come in time."""
        deadline = time.monotonic() + self._timeout_s
        notes: dict[int, Note] = {}
        for rank in ranks:
            try:
                notes[rank] = json.loads(
                    self._board.read(f"{key}/{rank}", max(0.001, deadline - time.monotonic()))
                )
                self._board.take_down(f"{key}/{rank}")
            except TimeoutError:
                notes[rank] = {"error": f"{what} within {self._timeout_s:g} s", "late": True}
        return notes

    def _manifest(self, facts: Facts, files: Mapping[int, FileInfo]) -> str:
        if self._plan is None:
            self._plan = self._make_plan(list(files))
        identity = facts.identity
        manifest = Manifest(
            state=facts.state,
            model=identity.model,
            tokenizer=identity.tokenizer,
            precision=identity.precision,
            layout=identity.layout,
            loss=facts.loss,
            validation_loss=facts.validation_loss,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(files[rank] for rank in self._plan.ranks),
            tensors={},
        )
        return manifest_text(manifest, self._plan.tensors).decode()

    def _make_plan(self, ranks: list[int]) -> _Plan:
        tensors: dict[str, list[StoredBox]] = {}
        kinds: dict[str, tuple[tuple[int, ...], str]] = {}
        for number, rank in enumerate(ranks):
            for one in json.loads(self._board.read(f"{self._prefix}/boxes/{rank}", self._timeout_s)):
                box = Box(tuple(one["box"]["offset"]), tuple(one["box"]["shape"]))
                tensors.setdefault(one["tensor"], []).append(StoredBox(box, number))
                kinds[one["tensor"]] = (tuple(one["shape"]), one["dtype"])
        for name, (shape, _) in kinds.items():
            boxes = [stored.box for stored in tensors[name]]
            assert covered_once(shape, boxes), f"{name}: boxes do not fill it"
        whole = {name: StoredTensor(*kinds[name], tuple(stored)) for name, stored in tensors.items()}
        return _Plan(tuple(ranks), tensors_json(whole))

    # --- keepers ---

    def _keep(self, tier: Tier, facts: Facts, verdict: Note) -> Note:
        """Put the manifest into this keeper's folder, or give the room of a failed save back."""
        if "manifest" not in verdict:
            if not verdict["late"]:  # a late rank may still be writing
                _quietly(lambda: _sweep(tier, facts))
            return {}
        try:
            faults.point("checkpoint.commit", rank=self._rank)
            text = verdict["manifest"].encode()
            tier.place.write(f"{facts.name}/{MANIFEST}", [memoryview(text)])
            faults.point("checkpoint.committed", rank=self._rank)
        except OSError as error:
            return {"error": f"{tier.place}/{facts.name}/{MANIFEST}: {error.strerror or error}"}
        damaged = self.damaged.setdefault(tier.name, set())
        damaged.discard(facts.name)
        known = self.inventories.setdefault(tier.name, Inventory(tier.place))
        known.forget(facts.name)
        _quietly(lambda: _prune(tier, facts.name, set(verdict["files"]), damaged, known, self._rank))
        return {}


@dataclass(frozen=True)
class _Plan:
    """What stays the same in every manifest of an attempt."""

    ranks: tuple[int, ...]
    """Those that write a file, in the order of the manifest's files."""
    tensors: str
    """As JSON."""


def _errors(notes: Mapping[int, Note]) -> list[str]:
    return [f"rank {rank}: {note['error']}" for rank, note in notes.items() if "error" in note]


def _bad_copies(notes: Mapping[int, Note]) -> list[str]:
    """Copies at neighbours that are not what was sent."""
    return [
        f"rank {rank}: its copy of rank {note['copy_of']}'s part differs"
        for rank, note in notes.items()
        if "copy_of" in note and note["copy"] != notes[note["copy_of"]].get("file")
    ]


def _sweep(tier: Tier, facts: Facts) -> None:
    for file in tier.place.files(facts.name):
        if file.startswith(f"attempt-{facts.state.attempt:05d}-"):
            tier.place.remove(f"{facts.name}/{file}")


def _prune(tier: Tier, name: str, files: set[str], damaged: set[str], known: Inventory, rank: int) -> None:
    """Delete what retention does not keep, what was never committed before the newest, and what an attempt
    that was killed left where this checkpoint, with these files, is now."""
    for file in tier.place.files(name):
        if file != MANIFEST and file not in files:
            tier.place.remove(f"{name}/{file}")
    failed: OSError | None = None
    for folder in superfluous_folders(tier.place, tier.retention, name, damaged, known):
        faults.point("checkpoint.prune", rank=rank)
        known.forget(folder)
        try:
            remove_checkpoint(tier.place, folder)
        except OSError as error:  # the others go all the same
            failed = error
    if failed is not None:
        raise failed


def _quietly(clear: Callable[[], None]) -> None:
    """What is left over does no harm; the next save tries again."""
    try:
        clear()
    except OSError as error:
        logger.warning("not all that is superfluous could be removed: %s", error)
