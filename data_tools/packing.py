"""The packing plan of a split: which whole documents make up each row; made once, kept beside the shards."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.best_fit import best_fit, pieces_of
from data_tools.tokenizer.fertility import shown
from megatrain.data.manifest import MANIFEST, ShardInfo, read_manifest
from megatrain.data.packing import Plan, ShardPlan, parse_plan, places_of, plan_folder, require_places
from megatrain.data.permutation import permute
from megatrain.data.shard import document_bounds
from megatrain.durable import hash_file, replacing, write_durably
from megatrain.errors import FailedWork, require
from megatrain.records import read_file

_FILE_VERSION = 1
_GROUP_TOKENS = 1 << 24
_LARGEST_SHARD = 1 << 32  # tokens that a plan's numbers can count
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PlanTask:
    """One shard to plan; documents are packed among neighbours of about `group_tokens` tokens together."""

    folder: Path
    shard: ShardInfo
    sequence_length: int
    group_tokens: int


class Over(Protocol):
    """Applies a function to tasks, here or in other processes; results come in the tasks' order."""

    def __call__(
        self, function: Callable[[PlanTask], ShardPlan], tasks: Iterable[PlanTask], /
    ) -> Iterable[ShardPlan]: ...


class _Rows(NamedTuple):
    """Rows of one group: pairs of first token and length [pieces, 2], and how many each row has [rows]."""

    pairs: Ints
    counts: Ints


def pack(folder: Path, sequence_length: int, *, over: Over = map, group_tokens: int = _GROUP_TOKENS) -> Plan:
    """Plan the rows of a split's folder for one sequence length; `folder/packing-LENGTH` then holds the plan.

    Shards whose plan is there already are left as they are, so a dataset that has grown is planned in the
    time of what is new. The manifest is written last. Raises UserError where the folder is no split.
    """
    manifest = read_manifest(folder)
    require(
        0 < sequence_length < _GROUP_TOKENS,
        f"{folder}: the sequence length ({sequence_length}) must be above 0 and below {_GROUP_TOKENS}: "
        "neighbours of about that many tokens are packed together",
    )
    for shard in manifest.shards:
        require(
            shard.tokens < _LARGEST_SHARD,
            f"{folder / shard.name}: {shard.tokens:,} tokens are too many for a plan; write smaller shards",
        )
    home = folder / plan_folder(sequence_length)
    home.mkdir(exist_ok=True)
    known = dict(_known(home, sequence_length))
    new = [shard for shard in manifest.shards if _key(shard) not in known]
    tasks = [PlanTask(folder, shard, sequence_length, group_tokens) for shard in new]
    for shard, planned in zip(new, over(plan_shard, tasks), strict=True):
        known[_key(shard)] = planned
    plan = Plan(sequence_length, tuple(known[_key(shard)] for shard in manifest.shards))
    write_durably(home / MANIFEST, plan.to_json())
    return plan


def plan_shard(task: PlanTask) -> ShardPlan:
    """Plan one shard, and write its plan; the memory that this takes is bounded by the shard's size."""
    row, shard = task.sequence_length + 1, task.shard
    bounds = document_bounds(task.folder / shard.name)
    groups = list(_groups(bounds, row, task.group_tokens, shard.tokens_hash))
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(group.pairs for group in groups)])
    counts = np.concatenate([np.empty(0, np.int64), *(group.counts for group in groups)])
    path = task.folder / plan_folder(task.sequence_length) / shard.name
    bounds_offset, pieces_offset = _write(path, pairs, counts)
    return ShardPlan(
        name=shard.name,
        source=shard.source,
        tokens_hash=shard.tokens_hash,
        rows=len(counts),
        pieces=len(pairs),
        tokens=int(pairs[:, 1].sum()),
        split=int((np.diff(bounds) > row).sum()),
        bytes=path.stat().st_size,
        bounds_offset=bounds_offset,
        pieces_offset=pieces_offset,
        hash=hash_file(path),
        plan_hash=_hash(pairs, counts),
    )


def summary(plan: Plan) -> str:
    """Rows, documents split and padding of each source, as text to read."""
    lines = [f"{'source':<20}{'rows':>14}{'pieces':>14}{'split':>12}{'padding':>10}"]
    for source in [*sorted({shard.source for shard in plan.shards}), None]:
        chosen = [shard for shard in plan.shards if source in (None, shard.source)]
        rows, pieces, split = (sum(getattr(s, name) for s in chosen) for name in ("rows", "pieces", "split"))
        padding = shown(plan.padding(source), ".3%")
        lines.append(f"{source or 'all':<20}{rows:>14,}{pieces:>14,}{split:>12,}{padding:>10}")
    return "\n".join(lines)


def _groups(bounds: Ints, row: int, group_tokens: int, name: str) -> Iterator[_Rows]:
    group = bounds[:-1] // group_tokens
    begins = np.flatnonzero(np.diff(group, prepend=-1)).tolist()
    for number, (first, last) in enumerate(pairwise([*begins, len(group)])):
        start, length = pieces_of(bounds[first : last + 1], row)
        rows, count = best_fit(length, row)
        if not count:
            continue
        # Long pieces were placed first: without this, neighbouring rows would be of documents of one length.
        key = np.array([xxhash.xxh3_64_intdigest(f"{name} {number}".encode())], np.uint64)
        rows = permute(np.arange(count), count, key)[rows]
        order = np.lexsort((start, rows))
        yield _Rows(np.stack([start, length], axis=1)[order], np.bincount(rows, minlength=count))


def _write(path: Path, pairs: Ints, counts: Ints) -> tuple[int, int]:
    """Write an Arrow file of one row a row; where its bounds and its pairs begin in the file."""
    import pyarrow as pa

    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = pa.FixedSizeListArray.from_arrays(pa.array(pairs.astype(np.uint32).reshape(-1)), 2)
    lists = pa.ListArray.from_arrays(pa.array(bounds), values)
    batch = pa.RecordBatch.from_arrays([lists], names=["pieces"])
    batch = batch.replace_schema_metadata({"megatrain": json.dumps({"format_version": _FILE_VERSION})})
    options = pa.ipc.IpcWriteOptions(compression=None)
    with replacing(path) as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return places_of(path)[:2]


def _known(home: Path, sequence_length: int) -> Mapping[tuple[str, str], ShardPlan]:
    """Plans that are there from before."""
    try:
        plan = parse_plan(read_file(home / MANIFEST), home / MANIFEST)
        for shard in plan.shards:
            require_places(home / shard.name, shard, plan.version)
    except (OSError, FailedWork):
        return {}
    return {
        (shard.name, shard.tokens_hash): shard
        for shard in plan.shards
        if (home / shard.name).is_file() and hash_file(home / shard.name) == shard.hash
    }


def _key(shard: ShardInfo) -> tuple[str, str]:
    return shard.name, shard.tokens_hash


def _hash(pairs: Ints, counts: Ints) -> str:
    digest = xxhash.xxh3_128(np.ascontiguousarray(pairs.astype("<u4")).tobytes())
    digest.update(counts.astype("<i8").tobytes())
    return digest.hexdigest()
