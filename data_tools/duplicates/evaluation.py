"""Evaluation sets on disk: which files they are, and the texts in them."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

import pyarrow as pa
from pyarrow import parquet

from megatrain.errors import UserError, require

_SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz", ".parquet")
_MEND: Final = "mend it, or leave it out of decontaminate.files"


def find_evaluation_sets(patterns: Sequence[str]) -> dict[str, list[Path]]:
    """The files by the name of their set: the file's, with its folder's before it where two are called the
    same.

    Raises UserError where a pattern matches nothing, or a file is of an unknown kind.
    """
    paths: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        require(matches, f"decontaminate.files: {pattern}: no such file; mend the path")
        paths += [Path(match) for match in matches if Path(match) not in paths]
    for path in paths:
        require(
            path.name.endswith(_SUFFIXES),
            f"decontaminate.files: {path}: unknown kind of file; known are {', '.join(_SUFFIXES)}",
        )
    stems = [path.name.split(".")[0] for path in paths]
    sets: dict[str, list[Path]] = {}
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}/{stem}"
        sets.setdefault(name, []).append(path)
    return sets


def read_evaluation_texts(path: Path, fields: Sequence[str]) -> Iterator[str]:
    """The texts of a file: of JSON lines and parquet rows those in `fields`, or all where none are named, a
    list's one by one; of a text file its paragraphs, between blank lines.

    Raises UserError where the file cannot be read, or has none of the fields.
    """
    found: dict[str, None] = {}  # In their order.
    try:
        if path.name.endswith((".txt", ".txt.gz")):
            with _open(path) as file:
                yield from file.read().decode("utf-8").replace("\r\n", "\n").split("\n\n")
            return
        for record in _records(path):
            found |= dict.fromkeys(record)
            for field in fields or record:
                yield from _strings(record.get(field))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an evaluation set ({reason}); {_MEND}") from None
    require(
        not fields or any(field in found for field in fields),
        f"{path}: no record has {' or '.join(fields)}; mend decontaminate.fields (it has {', '.join(found)})",
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.name.endswith(".parquet"):
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _record(line, f"{path}:{number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{where}: no JSON object; {_MEND}")
    return record


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for item in value.values():
                yield from _strings(item)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")
