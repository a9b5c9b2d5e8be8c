"""The first stage: raw files read and passed through the steps, one task a group of files of one source.

A task leaves `documents.arrow` (a row a document: text, language, and which record of which file it was),
`keys.npy` and `lengths.npy` for the stages that look at all documents at once, and `dropped.jsonl`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.document import Document, Drop, Step
from data_tools.readers import InputPart, read_documents
from data_tools.samples import Samples
from data_tools.selection import Keys
from data_tools.task import Stage
from megatrain.data.permutation import mix

_BATCH_BYTES = 1 << 23
_KEEP_SALT = 0x6B656570


@dataclass
class _Kept:
    """What goes on, a batch of it in memory."""

    folder: Path
    keys: bytearray = field(default_factory=bytearray)
    lengths: list[int] = field(default_factory=list)
    rows: list[tuple[str, str | None, int, int]] = field(default_factory=list)
    waiting: int = 0
    _writer: Any = None
    _stream: Any = None

    def add(self, document: Document, content: bytes, digest: bytes, file: int, record: int) -> None:
        self.keys += digest
        self.lengths.append(len(content))
        self.rows.append((content.decode(), document.metadata.get("language"), file, record))
        self.waiting += len(content)
        if self.waiting >= _BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._stream.close()
        np.save(self.folder / "keys.npy", as_keys(bytes(self.keys)))
        np.save(self.folder / "lengths.npy", np.array(self.lengths, np.int64))

    def _flush(self) -> None:
        import pyarrow as pa

        schema = pa.schema(
            [
                ("text", pa.large_string()),
                ("language", pa.string()),
                ("file", pa.int32()),
                ("record", pa.int64()),
            ]
        )
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
            self._stream = (self.folder / "documents.arrow").open("wb")
            self._writer = pa.ipc.new_file(self._stream, schema, options=options)
        columns = list(zip(*self.rows, strict=True)) or [()] * 4
        batch = pa.record_batch([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema)
        self._writer.write_batch(batch)
        self.rows, self.waiting = [], 0


def collect(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"source": name, "parts": what to read, in order}; gives the counts of what befell its
    documents."""
    name, source = task["source"], stage.config.sources[task["source"]]
    parts = [InputPart(**part) for part in task["parts"]]
    passed = _Through([section.build() for section in stage.config.steps_of(name)])
    kept, samples = _Kept(room), Samples(stage.config.samples)
    counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for file, part in enumerate(parts):
        for record, found in read_documents(part, source, name):
            counts["read"] += 1
            raw = found.text if isinstance(found, Document) else ""
            end = passed(found)
            if isinstance(end, Document):
                content = end.text.encode("utf-8", "replace")
                digest = xxhash.xxh3_128_digest(content)
                if not _is_kept(digest, source.keep):
                    end = Drop("keep.left_out")
            if isinstance(end, Drop):
                counts[end.reason] += 1
                samples.offer(end, raw, part.url, record)
                continue
            kept.add(end, content, digest, file, record)
            if language := end.metadata.get("language"):
                languages[language] += 1
    kept.close()
    samples.write(room / "dropped.jsonl")
    return {
        "source": name,
        "documents": len(kept.lengths),
        "counts": counts,
        "changes": passed.changes,
        "languages": languages,
        "raw_hashes": {part.url: part.content_hash() for part in parts},
    }


class _Through:
    """The steps, one after the other, and the sum of what they did to those that came through."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.changes: Counter[str] = Counter()

    def __call__(self, found: Document | Drop) -> Document | Drop:
        for step in self.steps:
            if isinstance(found, Drop):
                return found
            found = step(found)
        if isinstance(found, Document):
            self.changes += found.counts
        return found


def texts_of(folder: Path, rows: npt.NDArray[np.int64]) -> Iterator[str]:
    """The texts of some rows of a task, which must be in rising order; a batch at a time is in memory."""
    for first, batch in batches_of(folder):
        low, high = np.searchsorted(rows, [first, first + batch.num_rows])
        column = batch.column("text")
        for row in rows[low:high].tolist():
            yield column[row - first].as_py()


def batches_of(folder: Path) -> Iterator[tuple[int, Any]]:
    """The batches of a task's `documents.arrow`, each with the number of its first row."""
    import pyarrow as pa

    with (folder / "documents.arrow").open("rb") as stream:
        reader = pa.ipc.open_file(stream)
        first = 0
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield first, batch
            first += batch.num_rows


def as_keys(digests: bytes) -> Keys:
    """Digests of 16 bytes, one after the other, as keys [documents, 2]."""
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def doc_ids(keys: Keys) -> list[bytes]:
    """The keys as the 16 bytes that shards store."""
    content = keys.astype(">u8").tobytes()
    return [content[at : at + 16] for at in range(0, len(content), 16)]


def _is_kept(digest: bytes, share: float) -> bool:
    if share == 1.0:
        return True
    salted = mix(as_keys(digest)[:, 1] ^ np.uint64(_KEEP_SALT))
    return bool((salted >> np.uint64(11))[0] * 2.0**-53 < share)
