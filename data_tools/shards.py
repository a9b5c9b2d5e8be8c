"""The last stage: every shard is a range of the global shuffle, gathered from all tasks that encoded its
source.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    every = stage.shared["parts"][task["source"]]
    folders = [Path(stage.folder.parent, part["folder"]) for part in every]
    found = [_Run.of(folder, task["split"], task["low"], task["high"]) for folder in folders]
    runs, parts = zip(
        *((run, part) for run, part in zip(found, every, strict=True) if len(run.rows)), strict=True
    )
    dtype = np.dtype(stage.shared["dtype"])
    rows = np.concatenate([run.rows for run in runs])
    order = np.lexsort((rows["key"][:, 0], rows["key"][:, 1], rows["order"]))
    info = write_shard(
        room / task["name"],
        source=task["source"],
        doc_ids=doc_ids(rows["key"][order]),
        lengths=rows["tokens"][order],
        tokens=_in_order([run.tokens(dtype) for run in runs], rows, order),
        tokenizer_hash=stage.shared["tokenizer_hash"],
        text_bytes=int(rows["bytes"].sum()),
    )
    _write_lineage(room / "lineage.parquet", runs, parts, order)
    return dataclasses.asdict(info)


@dataclass(frozen=True)
class _Run:
    """The documents of one task that belong to a range of the shuffle, and where they begin in its files."""

    files: Path
    """Without their endings."""
    rows: npt.NDArray[Any]
    first_document: int
    first_token: int

    @classmethod
    def of(cls, folder: Path, split: str, low: int, high: int) -> _Run:
        index = np.load(folder / f"{split}.npy", mmap_mode="r")
        # Bisected by hand: np.searchsorted would copy the whole column, for every shard again.
        first, last = (
            bisect_left(range(len(index)), end, key=lambda at: index["order"][at].item())
            for end in (low, high)
        )
        rows = np.array(index[first:last])
        return cls(folder / split, rows, first, int(rows["start"][0]) if len(rows) else 0)

    def tokens(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        count, path = int(self.rows["tokens"].sum()), self.files.with_suffix(".tokens")
        tokens = np.fromfile(path, dtype, count, offset=self.first_token * dtype.itemsize)
        if len(tokens) != count:
            raise FailedWork(f"{path}: ends too early; remove its folder and run again")
        return tokens

    def metadata(self) -> list[str | None]:
        import pyarrow as pa

        column = pa.ipc.open_file(pa.memory_map(str(self.files.with_suffix(".arrow")))).get_batch(0).column(0)
        found: list[str | None] = column.slice(self.first_document, len(self.rows)).to_pylist()
        return found


def _in_order(parts: list[npt.NDArray[Any]], rows: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> Any:
    """The documents' tokens, rearranged; the parts are let go."""
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
    path: Path, runs: Sequence[_Run], parts: Sequence[Mapping[str, Any]], order: npt.NDArray[np.int64]
) -> None:
    """Of each document of a shard, in order: its id, the file and record it was, what is known of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.concatenate([run.rows for run in runs])
    columns: dict[str, list[Any]] = {"file": [], "language": [], "metadata": []}
    for run, part in zip(runs, parts, strict=True):
        languages = [*part["languages"], None]  # -1, no language, is the last
        columns["file"] += [part["files"][number] for number in run.rows["file"].tolist()]
        columns["language"] += [languages[number] for number in run.rows["language"].tolist()]
        columns["metadata"] += run.metadata()
    strings = {name: pa.array(column, pa.string()).take(pa.array(order)) for name, column in columns.items()}
    table = pa.table(
        {
            "doc_id": pa.array(doc_ids(rows["key"][order]), pa.binary(16)),
            "file": strings["file"],
            "record": pa.array(rows["record"][order]),
            "language": strings["language"],
            "text_bytes": pa.array(rows["bytes"][order]),
            "metadata": strings["metadata"],
        }
    )
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
