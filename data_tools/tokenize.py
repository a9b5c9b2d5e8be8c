"""The stage that encodes what is kept, one task for each task of `collect`.

A task leaves for each split `SPLIT.tokens`, the documents' tokens one after the other, `SPLIT.npy`, a row for
each of them, and `SPLIT.arrow`, their metadata; all in the order of the global shuffle, so that a shard is a
run of each task's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.collected import batches_of
from data_tools.remaining import Remaining
from data_tools.selection import SPLITS, shuffle_order, split_of
from data_tools.task import Stage
from megatrain.data.tokenizer import Tokenizer

INDEX = np.dtype(
    [
        ("order", "<u8"),
        ("key", "<u8", 2),
        ("tokens", "<i8"),
        ("bytes", "<i8"),
        ("language", "<i2"),
        ("file", "<i4"),
        ("record", "<i8"),
    ]
)
"""`order` is the place in the shuffle, `tokens` counts EOS; `language` numbers the result's list, -1:
none.
"""


def tokenize(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"part": its number in the corpus}; gives what remained, and the languages that rows number."""
    work, config = stage.folder.parent, stage.config
    remaining = Remaining(work, stage.shared["found"], task["part"], config.duplicates)
    keys = remaining.keys
    rows = np.zeros(len(keys), INDEX)
    rows["key"], rows["order"] = keys, shuffle_order(keys, config.seed)
    languages: dict[str, int] = {}
    metadata: list[str | None] = [None] * len(keys)
    parts = _encode(remaining, rows, languages, metadata, _tokenizer(work / stage.shared["tokenizer"]))
    kept = rows["tokens"] > 0
    split = split_of(keys, config.split)
    for number, name in enumerate(SPLITS):
        mine = np.flatnonzero(kept & (split == number))
        mine = mine[np.lexsort((keys[mine, 0], keys[mine, 1], rows["order"][mine]))]
        with (room / f"{name}.tokens").open("wb") as stream:
            for row in mine.tolist():
                stream.write(parts[row].data)
        np.save(room / f"{name}.npy", rows[mine])
        _write_metadata(room / f"{name}.arrow", [metadata[row] for row in mine.tolist()])
    emptied = int(remaining.kept.sum()) - int(kept.sum())
    counts = {**remaining.counts(), "duplicates.emptied": emptied, "kept": int(kept.sum())}
    return {"languages": list(languages), "counts": {**counts, "kept_bytes": int(rows["bytes"][kept].sum())}}


def _encode(
    remaining: Remaining,
    rows: npt.NDArray[Any],
    languages: dict[str, int],
    metadata: list[str | None],
    tokenizer: Tokenizer,
) -> list[Any]:
    """The tokens of each kept document, EOS last, None for the others; fills in what else is told of them."""
    parts: list[Any] = [None] * len(rows)
    for first, batch in batches_of(remaining.folder):
        rows["file"][first : first + batch.num_rows] = batch.column("file")
        rows["record"][first : first + batch.num_rows] = batch.column("record")
        metadata[first : first + batch.num_rows] = batch.column("metadata").to_pylist()
        texts, spoken = batch.column("text"), batch.column("language").to_pylist()
        some = np.flatnonzero(remaining.kept[first : first + batch.num_rows]).tolist()
        left = {at: remaining.text(first + at, texts[at].as_py()) for at in some}
        left = {at: text for at, text in left.items() if text.strip()}  # else it all stands in earlier ones
        encoded = tokenizer.encode_many(left.values())
        ends = np.cumsum(encoded.lengths)
        for (at, text), end, size in zip(left.items(), ends.tolist(), encoded.lengths.tolist(), strict=True):
            parts[first + at] = encoded.tokens[end - size : end]
            rows["tokens"][first + at], rows["bytes"][first + at] = size, len(text.encode())
            language = spoken[at]
            number = -1 if language is None else languages.setdefault(language, len(languages))
            rows["language"][first + at] = number
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
