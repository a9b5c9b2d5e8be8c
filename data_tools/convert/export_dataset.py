"""A dataset of ours for other tools: a folder of its splits in their format, with the tokenizer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data_tools import output
from data_tools.convert.exported import RECORD, looks_of
from data_tools.convert.inputs import Format
from data_tools.convert.mds import write_mds
from data_tools.convert.megatron import write_megatron
from data_tools.convert.parquet import write_parquet
from data_tools.datasets.shards import open_splits, require_unchanged
from data_tools.progress import Progress
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import ShardInfo
from megatrain.data.tokenizer import FOLDER, find_tokenizer
from megatrain.durable import sync_folder
from megatrain.errors import require
from megatrain.records import write_sealed


def export_dataset(folder: Path, kind: Format, target: Path, progress: Progress | None = None) -> list[Path]:
    """Write every split of a dataset, or one split, into a new folder, and give what can be opened.

    Nothing appears at `target` before all of it is complete. Raises UserError where there is no dataset, or
    the target is there already, FailedWork for a shard that is damaged and a disk that is full.
    """
    progress = progress or Progress()
    target = output.placed(target)
    splits = open_splits(folder)
    with output.locked(target):
        require(not target.exists(), f"{target}: is there already; choose another, or remove it")
        with output.making(target) as partial:
            written = []
            for split, dataset in splits.items():
                (partial / split).mkdir()
                written += _write(kind, dataset, partial / split)
                sync_folder(partial / split)
                documents = sum(shard.documents for shard in dataset.manifest.shards)
                progress.note(f"{split}: {documents:,} documents")
                home = find_tokenizer(dataset.folder)
                if home is not None and not (partial / FOLDER).exists():
                    shutil.copytree(home, partial / FOLDER)
            record = {**_record(kind, splits), "files": looks_of(partial)}
            write_sealed(partial / RECORD, record)
            os.rename(partial, target)
            sync_folder(target.parent)
    return [target / path.relative_to(partial) for path in written]


def _record(kind: Format, splits: Mapping[str, TokenDataset]) -> dict[str, Any]:
    return {
        "format": kind,
        "fingerprints": {split: dataset.fingerprint for split, dataset in splits.items()},
        "tokenizer_hash": next(iter(splits.values())).tokenizer_hash,
    }


def _write(kind: Format, dataset: TokenDataset, target: Path) -> list[Path]:
    shards: dict[str, list[tuple[Path, ShardInfo]]] = {source: [] for source in dataset.sources}
    for shard in dataset.manifest.shards:
        path = dataset.folder / shard.name
        require_unchanged(path, shard)  # what is copied unseen would be sound for ever after
        shards[shard.source].append((path, shard))
    # A source's name may hold what no file name can.
    names = {source: target / quote(source, safe=" ") for source in shards}
    match kind:
        case "megatron":
            for source, parts in shards.items():
                write_megatron(names[source], parts, dataset.manifest.dtype)
            return list(names.values())
        case "mds":
            for source, parts in shards.items():
                write_mds(names[source], parts)
            return list(names.values())
        case "parquet":
            for parts in shards.values():
                for path, shard in parts:
                    write_parquet(target / f"{path.stem}.parquet", path, shard)
            return [target]
