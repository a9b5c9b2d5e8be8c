"""What a collected task leaves of its documents: their texts, and the tables that duplicates are found by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.config import Duplicates
from data_tools.document import Document
from data_tools.duplicates.columns import join, open_batches
from data_tools.duplicates.corpus import (
    IDS,
    RepeatKeys,
    write_band_keys,
    write_exact_keys,
    write_ids,
    write_repeat_keys,
)
from data_tools.duplicates.near import Signer
from data_tools.duplicates.paragraphs import ParagraphKeyer
from data_tools.duplicates.substrings import SubstringKeyer
from data_tools.selection import Keys

_BATCH_BYTES = 1 << 22
LENGTHS, BATCHES = "lengths.npy", "batches.npy"
COLUMNS = ("text", "language", "metadata", "file", "record")


class CollectedWriter:
    """Writes `documents.arrow`, `lengths.npy`, `batches.npy` and the tables of keys into a folder.

    A batch of documents is in memory, and the keys of all.
    """

    def __init__(self, folder: Path, config: Duplicates) -> None:
        self._folder, self._exact = folder, config.exact
        self._digests = bytearray()
        self._lengths: list[int] = []
        self._rows: list[tuple[str, str | None, str | None, int, int]] = []
        self._waiting = 0
        self._signer = Signer(config.near) if config.near is not None else None
        self._bands: list[npt.NDArray[np.uint64]] = []
        self._keyers: dict[str, ParagraphKeyer | SubstringKeyer] = {}
        if config.paragraphs is not None:
            self._keyers["paragraphs"] = ParagraphKeyer(config.paragraphs)
        if config.substrings is not None:
            self._keyers["substrings"] = SubstringKeyer(config.substrings)
        self._repeats: dict[str, list[RepeatKeys]] = {name: [] for name in self._keyers}
        self._batches = [0]
        self._writer: Any = None
        self._stream: Any = None

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, document: Document, content: bytes, digest: bytes, file: int, record: int) -> None:
        """One more document: its text in UTF-8, the xxh3-128 of that, and which record of which file it
        was."""
        self._digests += digest
        self._lengths.append(len(content))
        others = {name: value for name, value in document.metadata.items() if name != "language"}
        metadata = json.dumps(others, ensure_ascii=False) if others else None
        self._rows.append((content.decode(), document.metadata.get("language"), metadata, file, record))
        self._waiting += len(content)
        if self._waiting >= _BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        """Write the rest, and the tables."""
        self._flush()
        self._writer.close()
        self._stream.close()
        keys = as_keys(bytes(self._digests))
        np.save(self._folder / LENGTHS, np.array(self._lengths, np.int64))
        np.save(self._folder / BATCHES, np.array(self._batches, np.int64))
        write_ids(self._folder / "ids.arrow", keys)
        if self._exact:
            write_exact_keys(self._folder / "exact.arrow", keys)
        if self._signer is not None:
            write_band_keys(self._folder / "bands.arrow", np.concatenate(self._bands))
        for name, batches in self._repeats.items():
            write_repeat_keys(self._folder / f"{name}.arrow", keys, batches)

    def _flush(self) -> None:
        import pyarrow as pa

        types = (pa.large_string(), pa.string(), pa.string(), pa.int32(), pa.int64())
        schema = pa.schema(list(zip(COLUMNS, types, strict=True)))
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
            self._stream = (self._folder / "documents.arrow").open("wb")
            self._writer = pa.ipc.new_file(self._stream, schema, options=options)
        columns = list(zip(*self._rows, strict=True)) or [()] * len(types)
        self._writer.write_batch(
            pa.record_batch([pa.array(c, t) for c, t in zip(columns, types, strict=True)], schema=schema)
        )
        self._sign([row[0] for row in self._rows])
        self._rows, self._waiting = [], 0
        self._batches.append(len(self._lengths))

    def _sign(self, texts: list[str]) -> None:
        if self._signer is not None:
            self._bands.append(self._signer.band_keys(texts))
        before = len(self._lengths) - len(texts)
        for name, keyer in self._keyers.items():
            self._repeats[name].append(keyer.keys(texts, before))


def batch_edges(folder: Path) -> npt.NDArray[np.int64]:
    """The first row of each batch of a task's `documents.arrow`, and the number of all [batches + 1]."""
    edges: npt.NDArray[np.int64] = np.load(folder / BATCHES)
    return edges


def batches_of(folder: Path, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
    """The batches of a task's `documents.arrow` that hold some of the rows, which rise; each with the number
    of its first row."""
    import pyarrow as pa

    edges = batch_edges(folder)
    with (folder / "documents.arrow").open("rb") as stream:
        reader = pa.ipc.open_file(stream)
        for number, (first, last) in enumerate(pairwise(edges.tolist())):
            if np.searchsorted(rows, first) < np.searchsorted(rows, last):
                yield first, reader.get_batch(number)


def keys_of(folder: Path) -> Keys:
    """The keys of a task's documents [documents, 2]."""
    table = join((stored.read(0, len(stored)) for stored in open_batches(folder / "ids.arrow", IDS)), IDS)
    return np.stack([table["high"], table["low"]], axis=1)


def as_keys(digests: bytes) -> Keys:
    """Digests of 16 bytes, one after the other, as keys [documents, 2]."""
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def doc_ids(keys: Keys) -> list[bytes]:
    """The keys as the 16 bytes that shards store."""
    content = keys.astype(">u8").tobytes()
    return [content[at : at + 16] for at in range(0, len(content), 16)]
