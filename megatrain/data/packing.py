"""Packed rows: whole documents side by side, by a plan that lies beside the shards."""

# Shapes: n rows asked for, W tokens of a row (sequence length + 1), P pieces.

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatrain.data.dataset import TokenDataset
from megatrain.data.files import File, Files
from megatrain.data.manifest import MANIFEST, require_file_name
from megatrain.data.rows import Ints, Pieces, Reads
from megatrain.data.stored import SEALED_SINCE, VERSION, parse_stored, typed
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError, require
from megatrain.records import sealed

FORMAT_VERSION = 2
PIECE_BYTES = 8  # two uint32: first token in the shard, length
BOUND_BYTES = 4  # int32: where the pieces of a row begin


@dataclass(frozen=True)
class ShardPlan:
    """The plan of one shard: an Arrow file of `rows` rows of (first token, length) pairs, `pieces` in all.

    `tokens_hash` is that of the shard it is for, `plan_hash` that of the pairs alone, `hash` that of the
    file, `bytes` its size; `bounds_offset` and `pieces_offset` are where its two buffers begin. `tokens` are
    those that the rows hold, `split` the documents that no row could hold whole.
    """

    name: str
    source: str
    tokens_hash: str
    rows: int
    pieces: int
    tokens: int
    split: int
    bytes: int
    bounds_offset: int
    pieces_offset: int
    hash: str
    plan_hash: str


@dataclass(frozen=True)
class Plan:
    """The plans of all shards of a split for one sequence length."""

    sequence_length: int
    shards: tuple[ShardPlan, ...]
    version: int = FORMAT_VERSION
    """Of the file that it was read from; those of version 1 have no hash of their own."""

    @property
    def fingerprint(self) -> str:
        """The hash of what decides the rows, beside the shards themselves."""
        decides = [self.sequence_length, [shard.plan_hash for shard in self.shards]]
        return xxhash.xxh3_128_hexdigest(json.dumps(decides).encode())

    def padding(self, source: str | None = None) -> float | None:
        """The share of the rows' tokens that is padding, of a source or of all; None without rows."""
        chosen = [shard for shard in self.shards if source in (None, shard.source)]
        room = sum(shard.rows for shard in chosen) * (self.sequence_length + 1)
        return 1 - sum(shard.tokens for shard in chosen) / room if room else None

    def to_json(self) -> bytes:
        tree = {VERSION: FORMAT_VERSION, **dataclasses.asdict(self)}
        del tree["version"]
        return (json.dumps(sealed(tree), indent=1) + "\n").encode()


def plan_folder(sequence_length: int | str) -> str:
    """The name of the folder, beside the shards, that the plan for a sequence length lies in; "*" stands for
    any."""
    return f"packing-{sequence_length}"


def parse_plan(content: bytes, where: object) -> Plan:
    """A plan from the bytes of its manifest. Raises FailedWork where it is damaged, UserError for a newer
    version."""
    mend = "run `megatrain data pack` again"
    version, tree = parse_stored(content, where, newest=FORMAT_VERSION, mend=mend)
    try:
        tree["shards"] = tuple(typed(ShardPlan, shard) for shard in tree["shards"])
        plan = Plan(**tree, version=version)
        _require_possible(plan)
    except (ValueError, TypeError, LookupError) as error:
        raise FailedWork(f"{where}: damaged, field {error}; {mend}") from None
    return plan


def _require_possible(plan: Plan) -> None:
    """Raise ValueError where values contradict each other or lead out of the folder."""
    if type(plan.sequence_length) is not int or plan.sequence_length < 1:
        raise ValueError(f"sequence_length {plan.sequence_length!r}")
    for one in plan.shards:
        require_file_name(one.name)
        counts = (one.rows, one.pieces, one.tokens, one.split, one.bounds_offset, one.pieces_offset)
        ends = (
            one.bounds_offset + BOUND_BYTES * (one.rows + 1),
            one.pieces_offset + PIECE_BYTES * one.pieces,
        )
        room = one.rows * (plan.sequence_length + 1)
        if min(counts) < 0 or max(ends) > one.bytes or one.tokens > room or one.rows > one.pieces:
            raise ValueError(f"counts or places of {one.name} that cannot be")


def require_places(path: Path, one: ShardPlan, version: int) -> None:
    """Compare what a plan without a hash of its own says of a file with the file's own footer. Raises
    FailedWork where they differ."""
    if version >= SEALED_SINCE:
        return
    try:
        found = places_of(path)
    except (OSError, ValueError, LookupError) as error:
        raise FailedWork(
            f"{path}: not a whole Arrow file ({error}); run `megatrain data pack` again"
        ) from None
    said = (one.bounds_offset, one.pieces_offset, one.rows, one.pieces)
    if found != said:
        raise FailedWork(
            f"{path}: offsets, rows and pieces are {found}, the manifest says {said}: one of them is "
            "damaged; run `megatrain data pack` again"
        )


def places_of(path: Path) -> tuple[int, int, int, int]:
    """Where the bounds and the pieces of a plan's file begin, its rows and its pieces.

    Raises OSError, ValueError and LookupError where it is not a whole file.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        column = pa.ipc.open_file(file).get_batch(0).column("pieces")
        file.seek(0)
        start = file.read_buffer().address
        buffers: list[Any] = [column.buffers()[1], column.values.values.buffers()[1]]
        places = [buffer.address - start if buffer is not None and buffer.size else 0 for buffer in buffers]
        return places[0], places[1], len(column), len(column.values)


class PackedDataset:
    """The packed rows of one split: like TokenDataset, with rows of the plan in place of windows."""

    def __init__(self, dataset: TokenDataset, plan: Plan) -> None:
        """Raises UserError where the plan is not of these shards."""
        length, where = plan.sequence_length, dataset.files.folder
        require(
            [shard.tokens_hash for shard in dataset.manifest.shards]
            == [one.tokens_hash for one in plan.shards],
            f"{where}/{plan_folder(length)}: the plan is of other shards; make it again: "
            + _command(where, length),
        )
        self.dataset, self.plan = dataset, plan
        files = Files(where, most_open=dataset.files.most_open, retry_s=dataset.files.retry_s)
        self._plans = [File(files, f"{plan_folder(length)}/{one.name}") for one in plan.shards]
        self._bounds = np.array([one.bounds_offset for one in plan.shards], np.int64)
        self._pieces = np.array([one.pieces_offset for one in plan.shards], np.int64)
        rows = np.array([one.rows for one in plan.shards], np.int64)
        self._ends = {source: np.cumsum(rows[dataset.shards(source)]) for source in dataset.sources}

    @classmethod
    def open(cls, dataset: TokenDataset, sequence_length: int) -> PackedDataset:
        """Open the plan beside the shards. Raises UserError where there is none, or it is of other shards."""
        where, folder = dataset.files.folder, plan_folder(sequence_length)
        try:
            content = where.read(f"{folder}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"data.packing (best_fit): {where} has no plan for data.sequence_length ({sequence_length}); "
                f"make it once: {_command(where, sequence_length)}"
            ) from None
        plan = parse_plan(content, f"{where}/{folder}/{MANIFEST}")
        if plan.sequence_length != sequence_length:
            raise FailedWork(
                f"{where}/{folder}: is of sequence length {plan.sequence_length}; make it again: "
                + _command(where, sequence_length)
            )
        for shard in plan.shards:
            check = partial(_check_places, shard, plan.version)
            if dataset.remote is not None:
                dataset.remote.know(f"{folder}/{shard.name}", shard.bytes, shard.hash, check)
            else:
                check(dataset.folder / folder / shard.name)
        return cls(dataset, plan)

    def windows(self, source: str, sequence_length: int) -> int:
        """The number of rows of a source."""
        assert sequence_length == self.plan.sequence_length
        return int(self._ends[source][-1])

    def ends(self, source: str, sequence_length: int) -> Ints:
        """How many rows of a source its shards hold up to each of them, that one included."""
        assert sequence_length == self.plan.sequence_length
        return self._ends[source]

    def reads(self, source: str, ids: Ints, sequence_length: int) -> Reads:
        """What must be read for rows [n] of a source into rows 0 .. n - 1. Raises what `locate` raises."""
        return self.dataset.reads_of(self.locate(source, ids, sequence_length))

    def locate(self, source: str, ids: Ints, sequence_length: int) -> Pieces:
        """The pieces of rows [n] of a source. Raises FailedWork where the plan is damaged."""
        assert sequence_length == self.plan.sequence_length
        shard, local = self._places(source, ids)
        bounds = np.empty((len(ids), 2), np.int32)
        self._read(
            shard, self._bounds[shard] + BOUND_BYTES * local, bounds, np.full(len(ids), 2 * BOUND_BYTES)
        )
        counts = (bounds[:, 1] - bounds[:, 0]).astype(np.int64)
        if (counts <= 0).any() or (bounds < 0).any():
            raise self._damaged(shard[(counts <= 0) | (bounds < 0).any(axis=1)])
        pieces = np.empty((int(counts.sum()), 2), np.uint32)
        begins = self._pieces[shard] + PIECE_BYTES * bounds[:, 0].astype(np.int64)
        self._read(shard, begins, pieces, PIECE_BYTES * counts)
        start, length = pieces.astype(np.int64).T
        row, of_piece = np.repeat(np.arange(len(ids)), counts), np.repeat(shard, counts)
        before = np.cumsum(length) - length
        at = before - np.repeat(before[np.cumsum(counts) - counts], counts)
        wrong = (start + length > self.dataset.tokens_of(of_piece)) | (
            at + length > self.plan.sequence_length + 1
        )
        if wrong.any():
            raise self._damaged(of_piece[wrong])
        return Pieces(row, at, of_piece, start, length)

    def shards_of(self, source: str, ids: Ints, sequence_length: int) -> Ints:
        """The number of the shard that each row [n] of a source lies in."""
        assert sequence_length == self.plan.sequence_length
        return self._places(source, ids)[0]

    def fetch(self, shard: int) -> bool:
        """Bring a shard and its plan near; gives whether one had to be fetched."""
        remote = self.dataset.remote
        fetched = remote is not None and remote.fetch(self._plans[shard].name)
        return self.dataset.fetch(shard) or fetched

    def verify_shards(self, indices: Iterable[int]) -> None:
        """Hash the plans of these shards, by number. Raises FailedWork naming one that is damaged."""
        for index in indices:
            path = self.dataset.folder / self._plans[index].name
            try:
                sound = hash_file(path) == self.plan.shards[index].hash
            except OSError as error:
                raise FailedWork(f"{path}: cannot be read: {error.strerror}") from None
            if not sound:
                raise self._damaged(np.array([index]))

    def _places(self, source: str, ids: Ints) -> tuple[Ints, Ints]:
        """Shard and row within it."""
        ends = self._ends[source]
        index = np.searchsorted(ends, ids, side="right")
        before = np.where(index > 0, ends[index - 1], 0)
        return self.dataset.shards(source)[index], ids - before

    def _read(self, shard: Ints, offset: Ints, out: npt.NDArray[Any], sizes: Ints) -> None:
        """So many bytes of each plan, one after the other."""
        memory, at = out.reshape(-1).view(np.uint8).data, 0
        for number, begin, size in zip(shard.tolist(), offset.tolist(), sizes.tolist(), strict=True):
            self._plans[number].read_into(begin, memory[at : at + size])
            at += size

    def _damaged(self, shards: Ints) -> FailedWork:
        where, length = self.dataset.files.folder, self.plan.sequence_length
        name = self._plans[int(shards[0])].name
        return FailedWork(f"{where}/{name}: the plan is damaged; make it again: {_command(where, length)}")


def _command(where: object, sequence_length: int) -> str:
    return f"megatrain data pack {where} --sequence-length {sequence_length}"


def _check_places(one: ShardPlan, version: int, path: Path) -> None:
    require_places(path, one, version)
