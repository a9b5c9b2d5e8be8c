"""The first pass: every file read, cleaned and filtered into a text file with an index, one task a file."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from data_tools.clean import clean, drop_reason
from data_tools.config import Clean, Filter, Source
from data_tools.readers import Unreadable, read_documents
from megatrain.durable import hash_file

# A document's key: the two halves of the xxh3-128 of its cleaned text, big end first.
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class CollectTask:
    """One raw file to read, and the text file to write its cleaned documents to."""

    source_name: str
    source: Source
    raw: Path
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
        for raw in read_documents(task.raw, task.source):
            counts["read"] += 1
            if isinstance(raw, Unreadable):
                counts[raw.reason] += 1
                continue
            if raw.had_invalid_utf8:
                counts[
                    "invalid_utf8_" + ("skipped" if task.clean.invalid_utf8 == "skip" else "replaced")
                ] += 1
                if task.clean.invalid_utf8 == "skip":
                    continue
            text = clean(raw.text, task.clean)
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
        task.source_name, task.text, hash_file(task.raw), halves, np.array(lengths, np.int64), counts
    )


def doc_ids(keys: Keys) -> list[bytes]:
    """The keys as the 16 bytes that shards store."""
    content = keys.astype(">u8").tobytes()
    return [content[at : at + 16] for at in range(0, len(content), 16)]
