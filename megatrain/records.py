"""JSON records in files: read without trust in whoever wrote them, and sealed with a hash of their own.

A record that decides something (which samples, which files, whose turn) carries the hash of the rest of it,
so that a flipped bit is damage, not another decision. Files of older versions have none.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from megatrain.durable import write_durably

OWN_HASH = "own_xxh3"
"""The key of a record for the hash of all the rest of it."""
MAX_BYTES = 1 << 30
T = TypeVar("T")


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file; never waits for a writer, as reading a FIFO would.

    Raises OSError, also for a folder, FIFO, socket or device, and for a file above `max_bytes`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(
                errno.EFBIG, f"has {status.st_size:,} bytes, at most {max_bytes:,} are read", str(path)
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes + 1)
    finally:
        os.close(descriptor)


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


def built(kind: type[T], tree: Mapping[str, Any], **made: Any) -> T:
    """Return a dataclass whose fields are exactly the keys of a record, each of the field's type.

    `made` has the values of fields that are more than a number, a text or a flag. Raises ValueError; a number
    that is no JSON number of 64 bits is refused, too.
    """
    rest = {name: value for name, value in tree.items() if name != OWN_HASH}
    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if rest.keys() != types.keys():
        raise ValueError(f"its keys are {', '.join(sorted(rest))}"[:200])
    for name, value in rest.items():
        if name not in made and not _is_of(value, types[name]):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
    return kind(**{**rest, **made})


def _is_of(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, int):
        return kind in ("int", "float") and abs(value) < 1 << 63
    if isinstance(value, float):
        return kind == "float" and math.isfinite(value)
    return isinstance(value, str) and kind == "str"


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the record in a file that has a hash of its own. Raises OSError and ValueError."""
    record = parse_record(read_file(path))
    check_seal(record, required=True)
    return record


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
