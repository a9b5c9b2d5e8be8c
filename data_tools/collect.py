"""The first pass: every file read, cleaned and filtered into a text file with an index, one task a file."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.clean import clean, drop_reason
from data_tools.config import Clean, Filter, Source
from data_tools.document import Drop
from data_tools.readers import InputPart, read_documents
from data_tools.readers import Source as RawSource

# A document's key: the two halves of the xxh3-128 of its cleaned text, big end first.
Keys = npt.NDArray[np.uint64]
_NAMES = {"read.invalid_bytes": "invalid_utf8_skipped"}


@dataclass(frozen=True)
class CollectTask:
    """One raw file to read, and the text file to write its cleaned documents to."""

    source_name: str
    source: Source
    raw: InputPart
    text: Path
    clean: Clean
    filter: Filter


@dataclass(frozen=True)
class Collected:
    """What one raw file gave.

    `keys` [documents, 2] and byte `lengths` [documents] are of those kept; `counts` says what befell all.
    """

    source_name: str
    text: Path
    raw_hash: str
    keys: Keys
    lengths: npt.NDArray[np.int64]
    counts: Counter[str]


def collect(task: CollectTask) -> Collected:
    """Read one file; its kept documents go to `task.text`, one after the other without anything between."""
    counts: Counter[str] = Counter()
    keys, lengths = bytearray(), list[int]()
    with task.text.open("wb") as out:
        for _, found in read_documents(task.raw, as_read(task.source, task.clean), task.source_name):
            counts["read"] += 1
            if isinstance(found, Drop):
                counts[_NAMES.get(found.reason, found.reason.removeprefix("read."))] += 1
                continue
            if found.counts["read.invalid_bytes"]:
                counts["invalid_utf8_replaced"] += 1
            text = clean(found.text, task.clean)
            if reason := drop_reason(text, task.filter):
                counts[reason] += 1
                continue
            content = text.encode()
            out.write(content)
            keys += xxhash.xxh3_128_digest(content)
            lengths.append(len(content))
            counts["clean"] += 1
            counts["clean_bytes"] += len(content)
    halves = np.frombuffer(bytes(keys), ">u8").astype(np.uint64).reshape(-1, 2)
    return Collected(
        task.source_name, task.text, task.raw.content_hash(), halves, np.array(lengths, np.int64), counts
    )


def as_read(source: Source, clean: Clean) -> RawSource:
    """What the readers are told of a source."""
    return RawSource(**source.model_dump(), invalid_bytes=clean.invalid_utf8)


def doc_ids(keys: Keys) -> list[bytes]:
    """The keys as the 16 bytes that shards store."""
    content = keys.astype(">u8").tobytes()
    return [content[at : at + 16] for at in range(0, len(content), 16)]
