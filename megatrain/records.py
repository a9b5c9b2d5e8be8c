"""JSON records in files: read without trust in whoever wrote them, and sealed with a hash of their own.

A record that decides something (which samples, which files, whose turn) carries the hash of the rest of it,
so that a flipped bit is damage, not another decision. Files of older versions have none.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from megatrain.durable import write_durably

OWN_HASH = "own_xxh3"
"""The key of a record for the hash of all the rest of it."""
MAX_BYTES = 1 << 30


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file; never waits for a writer, as reading a FIFO would.

    Raises OSError, also for a folder, FIFO, socket or device, and for a file above `max_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(
                errno.EFBIG, f"has {status.st_size:,} bytes, at most {max_bytes:,} are read", str(path)
            )
        return file.read(max_bytes + 1)


def parse_record(text: bytes | str) -> dict[str, Any]:
    """Return the JSON object in a text. Raises ValueError for everything else: other values, NaN and
    Infinity, keys that occur twice, nesting too deep for the parser, invalid UTF-8."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        tree = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{type(tree).__name__} in place of an object")
    return tree


def own_hash(record: Mapping[str, Any]) -> str:
    """Return the xxh3-128 of a record without its own hash, hex; the order of keys does not matter."""
    rest = {name: value for name, value in record.items() if name != OWN_HASH}
    read = json.loads(json.dumps(rest))  # as it comes back from the file: every key is text, and so sorted
    return xxhash.xxh3_128_hexdigest(json.dumps(read, sort_keys=True).encode())


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with its own hash as the last key."""
    rest = {name: value for name, value in record.items() if name != OWN_HASH}
    return {**rest, OWN_HASH: own_hash(rest)}


def check_seal(record: Mapping[str, Any], *, required: bool) -> None:
    """Raise ValueError where a record is not what was sealed.

    required: false for versions that were written before records had a hash; one that is there is compared
    all the same, so that a flipped version number does not switch the comparison off.
    """
    if OWN_HASH not in record:
        if required:
            raise ValueError("its own hash is absent")
    elif record[OWN_HASH] != own_hash(record):
        raise ValueError("its own hash differs")


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Seal a record and put it in place complete or not at all. Raises OSError."""
    write_durably(path, (json.dumps(sealed(record), indent=1, ensure_ascii=False) + "\n").encode())


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key occurs twice")
    return tree


# Made once: json.loads with hooks makes a decoder for each text, which takes as long as a short record.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
