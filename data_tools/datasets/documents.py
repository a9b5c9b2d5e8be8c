"""Documents of a finished dataset: some at random, the one with an id, those that contain a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_tools.datasets.shards import processes_for, read_columns
from data_tools.workers import pool
from megatrain.data.dataset import TokenDataset
from megatrain.data.permutation import permute
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import require


@dataclass(frozen=True)
class PlacedDocument:
    """One document as the tokenizer gives it back, and where it lies: row `row` of a shard."""

    split: str
    source: str
    shard: Path
    row: int
    doc_id: bytes
    first_token: int
    """Its place in the shard's run of tokens."""
    tokens: int
    """EOS included."""
    text: str


def random_documents(splits: Mapping[str, TokenDataset], count: int, seed: int) -> Iterator[PlacedDocument]:
    """Documents drawn evenly from all splits and sources, each once."""
    shards = _shards(splits)
    numbers = np.cumsum([documents for _, _, documents in shards])
    every = int(numbers[-1])
    for number in permute(np.arange(min(count, every)), every, np.array([seed], np.uint64)).tolist():
        which = int(np.searchsorted(numbers, number, side="right"))
        split, path, documents = shards[which]
        yield _read(split, path, number - int(numbers[which]) + documents)


def documents_with_id(splits: Mapping[str, TokenDataset], doc_id: str) -> Iterator[PlacedDocument]:
    """Every document whose id begins with these hex digits. Raises UserError where they are none."""
    digits = doc_id.lower()
    require(
        0 < len(digits) <= 32 and all(digit in "0123456789abcdef" for digit in digits),
        f"{doc_id!r} is no document id: give its first hex digits, up to 32, as `data inspect` prints them",
    )
    low, high = (int(digits.ljust(32, fill), 16) for fill in "0f")
    for split, path, _ in _shards(splits):
        keys = read_columns(path).keys
        near = (keys[:, 0] >= low >> 64) & (keys[:, 0] <= high >> 64)
        for row in np.flatnonzero(near).tolist():
            if low <= (int(keys[row, 0]) << 64 | int(keys[row, 1])) <= high:
                yield _read(split, path, row)


def documents_with_text(splits: Mapping[str, TokenDataset], text: str, most: int) -> Iterator[PlacedDocument]:
    """The first documents that contain a text; decodes all of them, over processes, until it has so many."""
    require(text, "the text to look for is empty")
    shards = _shards(splits)
    infos = [shard for dataset in splits.values() for shard in dataset.manifest.shards]
    with pool(processes_for(infos)) as over:
        tasks = [(path, text, most) for _, path, _ in shards]
        found = 0
        for (split, path, _), rows in zip(shards, over(_rows_with, tasks), strict=True):
            for row in rows[: most - found]:
                yield _read(split, path, row)
            found += len(rows)
            if found >= most:
                return


def _shards(splits: Mapping[str, TokenDataset]) -> list[tuple[str, Path, int]]:
    """Split, path and number of documents of every shard."""
    return [
        (name, dataset.folder / shard.name, shard.documents)
        for name, dataset in splits.items()
        for shard in dataset.manifest.shards
    ]


def _read(split: str, path: Path, row: int) -> PlacedDocument:
    columns = read_columns(path)
    tokens = columns.document(row)
    return PlacedDocument(
        split=split,
        source=columns.sources[0],
        shard=path,
        row=row,
        doc_id=columns.doc_id(row),
        first_token=int(columns.offsets[row]),
        tokens=len(tokens),
        text=_tokenizer(path.parent).decode(tokens[:-1]),
    )


def _rows_with(task: tuple[Path, str, int]) -> list[int]:
    path, text, most = task
    columns, tokenizer = read_columns(path), _tokenizer(path.parent)
    rows: list[int] = []
    for row in range(len(columns.keys)):
        if text in tokenizer.decode(columns.document(row)[:-1]):
            rows.append(row)
            if len(rows) == most:
                break
    return rows


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)
