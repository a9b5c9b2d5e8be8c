"""The record that an export of ours has beside its files, and whether they are still those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megatrain.durable import hash_file
from megatrain.errors import FailedWork, require
from megatrain.records import check_seal, parse_record, read_file

RECORD = "export.json"
_LEVELS = 3
"""A file of an export lies at most so many folders below the record: SPLIT/SOURCE/shard.00000.mds."""


def looks_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file in a folder, by its name there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "xxh3": hash_file(path)}
        for path in files
    }


def require_as_exported(files: Iterable[Path], tokenizer_hash: str) -> None:
    """Compare files with the record of the export that they are part of; those of other tools have none.

    Raises FailedWork where one is damaged, absent or not of the export, UserError for another tokenizer.
    """
    files = [Path(file) for file in files]
    homes = {home for file in files if (home := _home_of(file)) is not None}
    for home in sorted(homes):
        record = _read(home)
        require(
            record["tokenizer_hash"] == tokenizer_hash,
            f"{home}: was exported with tokenizer {record['tokenizer_hash'][:12]}, given is "
            f"{tokenizer_hash[:12]}; give {home / 'tokenizer'}",
        )
        if "files" not in record:
            continue
        mine = {str(file.relative_to(home)) for file in files if _home_of(file) == home}
        folders = {str(Path(name).parent) for name in mine if name.endswith((".parquet", ".mds"))}
        wanted = {name for name in record["files"] if name in mine or str(Path(name).parent) in folders}
        for name in sorted(mine | wanted):
            _require_same(home / name, record["files"].get(name))


def _require_same(path: Path, said: Mapping[str, Any] | None) -> None:
    if said is None:
        raise FailedWork(f"{path}: the export has no such file ({RECORD}); remove it, or export again")
    try:
        found = {"bytes": path.stat().st_size, "xxh3": hash_file(path)}
    except OSError as error:
        raise FailedWork(f"{path}: cannot be read: {error.strerror}; export again") from None
    if found != said:
        raise FailedWork(f"{path}: damaged or changed since it was exported; export again")


def _home_of(file: Path) -> Path | None:
    return next((home for home in file.parents[:_LEVELS] if (home / RECORD).is_file()), None)


def _read(home: Path) -> dict[str, Any]:
    """The record; that of before it had hashes names no files, and nothing is compared."""
    path = home / RECORD
    try:
        record = parse_record(read_file(path))
        check_seal(record, required="files" in record)
        if not isinstance(record["tokenizer_hash"], str) or not isinstance(record.get("files", {}), dict):
            raise ValueError("values of another type")
    except (OSError, ValueError, LookupError) as error:
        raise FailedWork(f"{path}: damaged ({error}); export again") from None
    return record
