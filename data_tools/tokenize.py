"""The stage that encodes what is kept, a task for each run of batches that a task of `collect` left.

A task leaves for each split `SPLIT.tokens`, the documents' tokens one after the other, `SPLIT.npy`, a row for
each of them, and `SPLIT.arrow`, their metadata; all in the order of the global shuffle, so that a shard is a
run of each task's files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.collected import batch_edges, batches_of
from data_tools.remaining import Remaining
from data_tools.selection import SPLITS, shuffle_order, split_of
from data_tools.task import Stage
from megatrain.data.tokenizer import Tokenizer

INDEX = np.dtype(
    [
        ("order", "<u8"),
        ("key", "<u8", 2),
        ("tokens", "<i8"),
        ("start", "<i8"),
        ("bytes", "<i8"),
        ("language", "<i2"),
        ("file", "<i4"),
        ("record", "<i8"),
    ]
)
"""`order` is the place in the shuffle, `tokens` counts EOS, `start` is where they begin in the file of all
tokens; `language` numbers the result's list, -1: none."""
# Of 4 MiB of text and more each: bounds a task's memory, however large a compressed file was.
_BATCHES_A_TASK = 64


def tokenize(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"part": its number in the corpus, "first", "last": rows of it, whole batches}; gives what
    remained, what was cut out of it, and how many documents are of each language, in the order that rows
    number."""
    work, config = stage.folder.parent, stage.config
    remaining = Remaining(work, stage.shared["found"], task["part"], config.duplicates)
    mine = slice(task["first"], task["last"])
    keys = remaining.keys[mine]
    rows = np.zeros(len(keys), INDEX)
    rows["key"], rows["order"] = keys, shuffle_order(keys, config.seed)
    languages = Counter[str]()
    metadata: list[str | None] = [None] * len(keys)
    tokenizer = _tokenizer(work / stage.shared["tokenizer"])
    parts = _encode(remaining, task["first"], rows, languages, metadata, tokenizer)
    kept = rows["tokens"] > 0
    split = split_of(keys, config.split)
    for number, name in enumerate(SPLITS):
        chosen = np.flatnonzero(kept & (split == number))
        chosen = chosen[np.lexsort((keys[chosen, 0], keys[chosen, 1], rows["order"][chosen]))]
        rows["start"][chosen] = np.cumsum(rows["tokens"][chosen]) - rows["tokens"][chosen]
        with (room / f"{name}.tokens").open("wb") as stream:
            for row in chosen.tolist():
                stream.write(parts[row].data)
        np.save(room / f"{name}.npy", rows[chosen])
        _write_metadata(room / f"{name}.arrow", [metadata[row] for row in chosen.tolist()])
    emptied = int(remaining.kept[mine].sum()) - int(kept.sum())
    counts = {**remaining.counts(mine), "duplicates.emptied": emptied, "kept": int(kept.sum())}
    counts["kept_bytes"] = int(rows["bytes"][kept].sum())
    less = (remaining.num_bytes[mine] - rows["bytes"])[kept]
    changes = {"duplicates.cut_documents": int((less > 0).sum()), "duplicates.cut_bytes": int(less.sum())}
    return {
        "languages": languages,
        "counts": counts,
        "changes": {what: count for what, count in changes.items() if count},
    }


def plan_runs(folder: Path) -> list[tuple[int, int]]:
    """First row and the one behind the last of each run of batches that is a task; one run at least."""
    edges = batch_edges(folder)
    ends = [*range(0, len(edges) - 1, _BATCHES_A_TASK), len(edges) - 1]
    return [(int(edges[first]), int(edges[last])) for first, last in pairwise(ends)]


def _encode(
    remaining: Remaining,
    start: int,
    rows: npt.NDArray[Any],
    languages: Counter[str],
    metadata: list[str | None],
    tokenizer: Tokenizer,
) -> list[Any]:
    """The tokens of each kept document of the rows from `start` on, EOS last, None for the others; fills in
    what else is told of them."""
    parts: list[Any] = [None] * len(rows)
    numbers: dict[str | None, int] = {}
    for row, batch in batches_of(remaining.folder, np.arange(start, start + len(rows))):
        first = row - start
        rows["file"][first : first + batch.num_rows] = batch.column("file")
        rows["record"][first : first + batch.num_rows] = batch.column("record")
        metadata[first : first + batch.num_rows] = batch.column("metadata").to_pylist()
        texts, spoken = batch.column("text"), batch.column("language").to_pylist()
        some = np.flatnonzero(remaining.kept[row : row + batch.num_rows]).tolist()
        left = {at: remaining.text(row + at, texts[at].as_py()) for at in some}
        left = {at: text for at, text in left.items() if text.strip()}  # else it all stands in earlier ones
        encoded = tokenizer.encode_many(left.values())
        ends = np.cumsum(encoded.lengths)
        for (at, text), end, size in zip(left.items(), ends.tolist(), encoded.lengths.tolist(), strict=True):
            parts[first + at] = encoded.tokens[end - size : end]
            rows["tokens"][first + at], rows["bytes"][first + at] = size, len(text.encode())
            if (language := spoken[at]) is not None:
                languages[language] += 1
                numbers.setdefault(language, len(numbers))
            rows["language"][first + at] = numbers.get(language, -1)
    return parts


def _write_metadata(path: Path, metadata: list[str | None]) -> None:
    """Uncompressed, so that a run of it is read alone."""
    import pyarrow as pa

    batch = pa.record_batch([pa.array(metadata, pa.large_string())], names=["metadata"])
    with path.open("wb") as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


@lru_cache(maxsize=1)
def _tokenizer(home: Path) -> Tokenizer:
    return Tokenizer.load(home)
