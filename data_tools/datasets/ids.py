"""Documents of whole datasets by their id, out of core: spread over files by the id's first bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.datasets.shards import read_columns
from megatrain.data.dataset import TokenDataset

ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("tokens", "<i8"), ("label", "<i4")])
"""The two halves of a doc_id, the document's tokens, and which of the labels is its split and source."""
Rows = npt.NDArray[Any]

ROWS_A_FILE = 1 << 22


@dataclass(frozen=True, order=True)
class Label:
    """The split and the source of a document."""

    split: str
    source: str

    def __str__(self) -> str:
        return f"{self.split}/{self.source}"


@dataclass(frozen=True)
class Spread:
    """The rows of one dataset in files by the id's first bits; `labels` is what their labels number."""

    folder: Path
    files: int
    labels: tuple[Label, ...]

    def rows(self, number: int) -> Rows:
        """The rows of one file, sorted by id and then by label."""
        path = self.folder / str(number)
        rows: Rows = np.fromfile(path, ROW) if path.exists() else np.empty(0, ROW)
        return rows[np.lexsort((rows["label"], rows["low"], rows["high"]))]


def files_for(datasets: Sequence[Mapping[str, TokenDataset]], rows_a_file: int = ROWS_A_FILE) -> int:
    """Into how many files, a power of two, so that one of each dataset fits into memory."""
    documents = max(
        sum(shard.documents for dataset in splits.values() for shard in dataset.manifest.shards)
        for splits in datasets
    )
    return 1 << max(0, (documents - 1) // rows_a_file).bit_length()


def spread(splits: Mapping[str, TokenDataset], folder: Path, files: int) -> Spread:
    """Write the rows of every shard to files in an empty folder."""
    folder.mkdir()
    labels = [Label(split, source) for split, dataset in splits.items() for source in dataset.sources]
    for split, dataset in splits.items():
        for shard in dataset.manifest.shards:
            columns = read_columns(dataset.folder / shard.name)
            rows = np.empty(len(columns.keys), ROW)
            rows["high"], rows["low"] = columns.keys.T
            rows["tokens"], rows["label"] = columns.lengths, labels.index(Label(split, shard.source))
            _append(rows, folder, files)
    return Spread(folder, files, tuple(labels))


def first_of_each(rows: Rows) -> npt.NDArray[np.bool_]:
    """Of rows sorted by id: which are the first with theirs."""
    first = np.ones(len(rows), bool)
    first[1:] = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
    return first


def hex_id(row: Any) -> str:
    """The id of a row as `data inspect` prints it."""
    return f"{int(row['high']):016x}{int(row['low']):016x}"


def _append(rows: Rows, folder: Path, files: int) -> None:
    number = (rows["high"] >> np.uint64(32)) * np.uint64(files) >> np.uint64(32)
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(files), side="right")
    for which, part in enumerate(np.split(rows[order], ends[:-1])):
        if len(part):
            with (folder / str(which)).open("ab") as stream:
                part.tofile(stream)
