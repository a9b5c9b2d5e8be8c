"""The files of a dataset beside its shards: what a preparation recorded of them, and whether it is so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.datasets.shards import processes_for
from data_tools.progress import Progress
from data_tools.workers import pool
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import MANIFEST, splits_in
from megatrain.data.packing import plan_folder
from megatrain.durable import hash_file
from megatrain.records import check_seal, parse_record, read_file

PREPARED = "prepared.json"
"""The record, which comes last."""
BESIDE = "beside"
"""Its key for what `looks_beside` gives."""
UNFINISHED = "unfinished.txt"
"""Is there while a dataset is changed that was complete before."""
OWN = (PREPARED, UNFINISHED)
MEND = "prepare the dataset again or restore this file"
Looks = Mapping[str, Any]


@dataclass(frozen=True)
class FileTask:
    """A file beside the shards to check against the record of the preparation; its hash where it has one to
    be compared with."""

    path: Path
    bytes: int
    hash: str | None
    mend: str = MEND


def looks_beside(folder: Path, known: Mapping[str, Looks]) -> dict[str, Looks]:
    """Size and hash of every file that is no shard, by its name in the folder; `known` are those of an older
    record of the same folder."""
    return {name: _looks(folder, name, known) for name in _names(folder)}


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in OWN)
    shards = {path for split in splits_in(folder) for path in split.glob("shard-*.arrow")}
    packed = {path for split in splits_in(folder) for path in split.glob(f"{plan_folder('*')}/*")}
    return sorted(str(path.relative_to(folder)) for path in files if path not in shards | packed)


def _looks(folder: Path, name: str, known: Mapping[str, Looks]) -> Looks:
    """Size and hash of a file; a large one that was there before is never written again."""
    path = folder / name
    if name in known and path.suffix in (".arrow", ".parquet"):
        return known[name]
    return {"bytes": path.stat().st_size, "xxh3": hash_file(path)}


def check_file(task: FileTask) -> str | None:
    """What is wrong with a file beside the shards."""
    try:
        size = task.path.stat().st_size
        if not task.path.is_file():
            return f"{task.path}: is no file; {task.mend}"
        if size != task.bytes:
            return f"{task.path}: changed: {size:,} bytes, there were {task.bytes:,}; {task.mend}"
        if task.hash is not None and (found := hash_file(task.path)) != task.hash:
            return f"{task.path}: changed: its hash is {found[:12]}, it was {task.hash[:12]}; {task.mend}"
    except FileNotFoundError:
        return f"{task.path}: missing; {task.mend}"
    except OSError as error:
        return f"{task.path}: cannot be read: {error.strerror}"
    return None


def faults_beside(
    folder: Path, splits: Mapping[str, TokenDataset], quick: bool, workers: int, progress: Progress
) -> Iterator[tuple[Path, str]]:
    """Of the record of the preparation, and of what it says lies beside the shards: manifests, the files of
    the tokenizer, lineage, tables of duplicates, samples of what was dropped; each with its file."""
    if (folder / MANIFEST).is_file():
        return  # a split by itself
    path = folder / PREPARED
    try:
        record = parse_record(read_file(path))
        check_seal(record, required=True)
        tasks = [
            FileTask(folder / name, looks["bytes"], None if quick else looks["xxh3"])
            for name, looks in record[BESIDE].items()
        ]
    except FileNotFoundError:
        if any(dataset.manifest.made for dataset in splits.values()):
            yield path, f"{path}: missing; {MEND}"
        return
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        yield path, f"{path}: damaged ({error}); {MEND}"
        return
    with pool(1 if quick else processes_for(tasks, workers)) as over:
        faults = progress.track("verify, files beside", over(check_file, tasks), len(tasks))
        for task, found in zip(tasks, faults, strict=True):
            if found is not None:
                yield task.path, found
