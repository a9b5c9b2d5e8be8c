"""The first stage: raw files read and passed through the steps, one task a group of files of one source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_tools.collected import CollectedWriter, as_keys
from data_tools.config_files import files_of
from data_tools.document import Document, Drop, Step
from data_tools.readers import InputPart, read_documents
from data_tools.readers.raw import is_remote, local_path
from data_tools.readers.text import NO_SEPARATOR
from data_tools.readers.unchanged import look_at, require_same_hashes
from data_tools.samples import Samples
from data_tools.task import Stage
from megatrain.data.permutation import mix

_KEEP_SALT = 0x6B656570


def collect(stage: Stage, task: Mapping[str, Any], room: Path) -> Mapping[str, Any]:
    """Task: {"source": name, "parts": what to read, in order}; gives the counts of what befell its documents.

    Leaves what `CollectedWriter` writes, and `dropped.jsonl`.
    """
    name, source = task["source"], stage.config.sources[task["source"]]
    parts = [InputPart(**part) for part in task["parts"]]
    steps = stage.config.steps_of(name)
    passed = _Through([section.build() for section in steps])
    used = {str(path) for section in steps for path in files_of(section)}
    require_same_hashes({path: said for path, said in stage.shared["files"].items() if path in used})
    kept, samples = CollectedWriter(room, stage.config.duplicates), Samples(stage.config.samples)
    counts, metadata, unparted = Counter[str](), Counter(dict.fromkeys(source.metadata, 0)), 0
    for file, part in enumerate(parts):
        for position, found in read_documents(part, source, name):
            counts["read"] += 1
            if isinstance(found, Document):
                metadata.update(source.metadata.keys() & found.metadata.keys())
                unparted += found.counts[NO_SEPARATOR]
            end = passed(found)
            if isinstance(end, Document) and not end.text.strip():
                end = Drop("length.empty", "nothing is left after the last step")
            if isinstance(end, Document):
                content = end.text.encode("utf-8", "replace")
                digest = xxhash.xxh3_128_digest(content)
                if not _is_kept(digest, source.keep):
                    end = Drop("keep.left_out")
            if isinstance(end, Drop):
                counts[end.reason] += 1
                samples.offer(end, found.text if isinstance(found, Document) else "", part.url, position)
                continue
            kept.add(end, content, digest, file, position)
    kept.close()
    samples.write(room / "dropped.jsonl")
    return {
        "source": name,
        "documents": len(kept),
        "counts": counts,
        "changes": passed.changes,
        "metadata": metadata,
        "unparted": unparted,
        "files": [part.url for part in parts],
        "read": [[part.url, part.start, part.bytes, _hash_of(part)] for part in parts],
        "looks": {part.url: look_at(local_path(part.url)) for part in parts if not is_remote(part.url)},
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


def _hash_of(part: InputPart) -> str | None:
    """Of a local file's bytes; a remote one is known by what its store calls its version."""
    return None if is_remote(part.url) else part.content_hash()


def _is_kept(digest: bytes, share: float) -> bool:
    if share == 1.0:
        return True
    salted = mix(as_keys(digest)[:, 1] ^ np.uint64(_KEEP_SALT))
    return bool((salted >> np.uint64(11))[0] * 2.0**-53 < share)
