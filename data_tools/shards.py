"""The last stage: every shard is a range of the global shuffle, gathered from all tasks that encoded its
source.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.collected import doc_ids
from data_tools.task import Stage
from megatrain.data.shard import write_shard
from megatrain.errors import FailedWork

_BINS_LOG2 = 20
_SHIFT = 64 - _BINS_LOG2


def plan_ranges(indices: Sequence[Path], max_tokens: int) -> list[tuple[int, int]]:
    """Ranges [low, high) of the shuffle for the shards of one source and split: as few as `max_tokens`
    allows, alike in size. They end between bins of a millionth of the documents; one that is too large
    stands alone."""
    tokens = np.zeros(1 << _BINS_LOG2, np.int64)
    for path in indices:
        rows = np.load(path, mmap_mode="r")
        bins = (rows["order"] >> np.uint64(_SHIFT)).astype(np.int64)
        np.add.at(tokens, bins, rows["tokens"])
    ends = np.cumsum(tokens)
    total, done, start = int(ends[-1]), 0, 0
    ranges: list[tuple[int, int]] = []
    while done < total:
        left = total - done
        target = left / -(-left // max_tokens)
        last = int(np.searchsorted(ends, done + max_tokens, side="right"))  # the first end beyond the limit
        stop = min(int(np.searchsorted(ends, done + target)) + 1, last)
        stop = max(stop, int(np.searchsorted(ends, done, side="right")) + 1)  # at least one document
        ranges.append((start << _SHIFT, stop << _SHIFT))
        start, done = stop, int(ends[stop - 1])
    return [*ranges[:-1], (ranges[-1][0], 1 << 64)] if ranges else []


def write(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"source", "split", "name", "low", "high"}; the stage's `parts` are the tasks that encoded a
    source.

    Leaves the shard and, as parquet, where each of its documents came from; gives the shard's description.
    """
    parts = stage.shared["parts"][task["source"]]
    folders = [Path(stage.folder.parent, part["folder"]) for part in parts]
    runs = [_rows(folder / f"{task['split']}.npy", task["low"], task["high"]) for folder in folders]
    dtype = np.dtype(stage.shared["dtype"])
    tokens = [
        _tokens(folder / f"{task['split']}.tokens", rows, first, dtype)
        for folder, (rows, first) in zip(folders, runs, strict=True)
    ]
    rows = np.concatenate([rows for rows, _ in runs])
    came_from = np.repeat(np.arange(len(runs)), [len(rows) for rows, _ in runs])
    order = np.lexsort((rows["key"][:, 0], rows["key"][:, 1], rows["order"]))
    info = write_shard(
        room / task["name"],
        source=task["source"],
        doc_ids=doc_ids(rows["key"][order]),
        lengths=rows["tokens"][order],
        tokens=_in_order(tokens, rows, order),
        tokenizer_hash=stage.shared["tokenizer_hash"],
        text_bytes=int(rows["bytes"].sum()),
    )
    _write_lineage(room / "lineage.parquet", rows[order], came_from[order], parts)
    return dataclasses.asdict(info)


def _rows(path: Path, low: int, high: int) -> tuple[npt.NDArray[Any], int]:
    """The rows of a task that belong to a range, and where their tokens begin."""
    rows = np.load(path, mmap_mode="r")
    first = int(np.searchsorted(rows["order"], np.uint64(low)))
    last = len(rows) if high >= 1 << 64 else int(np.searchsorted(rows["order"], np.uint64(high)))
    return np.array(rows[first:last]), int(rows["tokens"][:first].sum())


def _tokens(path: Path, rows: npt.NDArray[Any], first: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    count = int(rows["tokens"].sum())
    tokens = np.fromfile(path, dtype, count, offset=first * dtype.itemsize)
    if len(tokens) != count:
        raise FailedWork(f"{path}: ends too early; remove its folder and run again")
    return tokens


def _in_order(parts: list[npt.NDArray[Any]], rows: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> Any:
    """The documents' tokens, rearranged; the parts are let go one by one."""
    ends = np.cumsum(rows["tokens"])
    joined = np.concatenate(parts)
    parts.clear()
    out = np.empty_like(joined)
    at = 0
    for row in order.tolist():
        size = int(rows["tokens"][row])
        out[at : at + size] = joined[ends[row] - size : ends[row]]
        at += size
    return out


def _write_lineage(
    path: Path, rows: npt.NDArray[Any], came_from: npt.NDArray[np.int64], parts: Sequence[Mapping[str, Any]]
) -> None:
    """Of each document of a shard, in order: its id, the file and record it was, its language, its bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "doc_id": pa.array(doc_ids(rows["key"]), pa.binary(16)),
            "file": pa.array(list(_files(rows, came_from, parts)), pa.string()),
            "record": pa.array(rows["record"]),
            "language": pa.array(list(_languages(rows, came_from, parts)), pa.string()),
            "text_bytes": pa.array(rows["bytes"]),
        }
    )
    pq.write_table(table, path, compression="zstd")


def _files(rows: Any, came_from: Any, parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for part, file in zip(came_from.tolist(), rows["file"].tolist(), strict=True):
        yield parts[part]["files"][file]


def _languages(rows: Any, came_from: Any, parts: Sequence[Mapping[str, Any]]) -> Iterator[str | None]:
    for part, language in zip(came_from.tolist(), rows["language"].tolist(), strict=True):
        yield None if language < 0 else parts[part]["languages"][language]
