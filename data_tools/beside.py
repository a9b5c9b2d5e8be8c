"""The files of a dataset beside its shards: what a preparation recorded of them, and whether it is so."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.datasets.shards import processes_for
from data_tools.progress import Progress
from data_tools.workers import pool
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import MANIFEST, splits_in
from megatrain.data.packing import parse_plan, plan_folder
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError
from megatrain.records import check_seal, parse_record, read_file

PREPARED = "prepared.json"
"""The record, which comes last."""
BESIDE = "beside"
"""Its key for what `looks_beside` gives."""
UNFINISHED = "unfinished.txt"
"""Is there while a dataset is changed that was complete before."""
OWN = (PREPARED, UNFINISHED)
_OURS = re.compile(
    r"[^/]+/manifest\.json|tokenizer/[^/]+|lineage/[^/]+/shard-\d+\.parquet|dropped/[^/]+\.jsonl"
    r"|duplicates/(parts\.json|\d+/[^/]+\.arrow)"
)
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
    return {name: _looks(folder, name, known) for name in _names(folder, known)}


def _names(folder: Path, known: Mapping[str, Looks]) -> list[str]:
    """Files that a preparation or an import writes; one that someone else put there is in no record."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in OWN)
    shards = {path for split in splits_in(folder) for path in split.glob("shard-*.arrow")}
    packed = {path for split in splits_in(folder) for path in split.glob(f"{plan_folder('*')}/*")}
    names = (str(path.relative_to(folder)) for path in files if path not in shards | packed)
    return sorted(name for name in names if name in known or _OURS.fullmatch(name))


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
    """Of the record of the preparation, of what it says lies beside the shards (manifests, the files of the
    tokenizer, lineage, tables of duplicates, samples of what was dropped), and of files that no record names;
    each with its file."""
    if (folder / MANIFEST).is_file():
        yield from _unknown(folder, splits, None)  # a split by itself
        return
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
        else:
            yield from _unknown(folder, splits, None)
        return
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        yield path, f"{path}: damaged ({error}); {MEND}"
        return
    with pool(1 if quick else processes_for(tasks, workers)) as over:
        faults = progress.track("verify, files beside", over(check_file, tasks), len(tasks))
        for task, found in zip(tasks, faults, strict=True):
            if found is not None:
                yield task.path, found
    yield from _unknown(folder, splits, record[BESIDE].keys())


def _unknown(
    folder: Path, splits: Mapping[str, TokenDataset], named: Collection[str] | None
) -> Iterator[tuple[Path, str]]:
    """Files that neither the record (`named`; None: there is none) nor a manifest or plan names.

    Hidden ones belong to file systems and desktops; of a split or plan whose manifest is lost or damaged that
    is told; shards that no manifest names are told of with the shards.
    """
    homes = [dataset.folder for dataset in splits.values()]
    lost = {path.parent for path in folder.glob("*/shard-*.arrow")} | {
        path.parent for path in folder.glob(f"*/{MANIFEST}")
    }
    lost -= set(homes)
    known = {home / MANIFEST for home in homes} | {folder / name for name in (*OWN, *(named or ()))}
    for home in homes:
        known |= set(home.glob("*.arrow"))
        for plan in home.glob(plan_folder("*")):
            lost_plan, names = _planned(plan)
            lost |= {plan} if lost_plan else set()
            known |= {plan / name for name in names}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_dir() or path in known or any(part.startswith(".") for part in inner.parts):
            continue
        if not lost & set(path.parents) and not (named is None and _OURS.fullmatch(str(inner))):
            yield path, f"{path}: is in no record of this dataset; remove it"


def _planned(plan: Path) -> tuple[bool, list[str]]:
    """Whether a plan's own manifest cannot be read, and the files that it names."""
    try:
        shards = parse_plan(read_file(plan / MANIFEST), plan).shards
    except (OSError, FailedWork, UserError):
        return True, []
    return False, [MANIFEST, *(one.name for one in shards)]
