"""The stage that encodes what is kept, one task for each task of `collect`.

A task leaves for each split `SPLIT.tokens`, the documents' tokens one after the other, and `SPLIT.npy`, a
row for each of them; both in the order of the global shuffle, so that a shard is a run of each task's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.collect import batches_of
from data_tools.selection import SPLITS, Keys, shuffle_order, split_of
from data_tools.task import Stage
from megatrain.data.shard import token_dtype
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork

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
"""`order` is the place in the shuffle, `tokens` counts EOS; `language` numbers the result's list, -1 for
none.
"""


def tokenize(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"source", "collected": its folder, "first_row": its first document's number among all}."""
    folder = stage.folder.parent / task["collected"]
    keys: Keys = np.load(folder / "keys.npy")
    kept = _kept(stage.folder.parent / stage.shared["removed"], task["first_row"], keys)
    rows = np.zeros(len(keys), INDEX)
    rows["key"], rows["order"] = keys, shuffle_order(keys, stage.config.seed)
    rows["bytes"] = np.load(folder / "lengths.npy")
    tokenizer = _tokenizer(stage.folder.parent / stage.shared["tokenizer"])
    languages: dict[str, int] = {}
    parts = _encode(folder, kept, rows, languages, tokenizer)
    split = split_of(keys, stage.config.split)
    for number, name in enumerate(SPLITS):
        mine = np.flatnonzero(kept & (split == number))
        mine = mine[np.lexsort((keys[mine, 0], keys[mine, 1], rows["order"][mine]))]
        with (room / f"{name}.tokens").open("wb") as stream:
            for row in mine.tolist():
                stream.write(parts[row].data)
        np.save(room / f"{name}.npy", rows[mine])
    totals = Counter[str]()
    for part in parts:
        if part is not None:
            totals["tokens"] += len(part)
    return {"source": task["source"], "languages": list(languages), **totals}


def _encode(
    folder: Path,
    kept: npt.NDArray[np.bool_],
    rows: npt.NDArray[Any],
    languages: dict[str, int],
    tokenizer: Tokenizer,
) -> list[Any]:
    """The tokens of each kept document, EOS last, None for the others; fills in the rows' columns."""
    dtype = token_dtype(tokenizer.vocab_size)
    parts: list[Any] = [None] * len(rows)
    for first, batch in batches_of(folder):
        rows["file"][first : first + batch.num_rows] = batch.column("file")
        rows["record"][first : first + batch.num_rows] = batch.column("record")
        texts, spoken = batch.column("text"), batch.column("language").to_pylist()
        for at in np.flatnonzero(kept[first : first + batch.num_rows]).tolist():
            parts[first + at] = np.array([*tokenizer.encode(texts[at].as_py()), tokenizer.eos_id], dtype)
            rows["tokens"][first + at] = len(parts[first + at])
            language = spoken[at]
            rows["language"][first + at] = (
                -1 if language is None else languages.setdefault(language, len(languages))
            )
    return parts


def _kept(removed: Path, first_row: int, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of a task's documents are not removed. Raises FailedWork where the list names other documents."""
    table = np.load(removed, mmap_mode="r")
    low, high = np.searchsorted(table["row"], [first_row, first_row + len(keys)])
    mine = table["row"][low:high].astype(np.int64) - first_row
    if not np.array_equal(table["key"][low:high], keys[mine]):
        raise FailedWork(f"{removed}: names documents that are not there; remove its folder and run again")
    kept = np.ones(len(keys), bool)
    kept[mine] = False
    return kept


@lru_cache(maxsize=1)
def _tokenizer(home: Path) -> Tokenizer:
    return Tokenizer.load(home)
