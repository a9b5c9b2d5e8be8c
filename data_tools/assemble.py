"""What the stages gave, put together as a dataset: new, or added to one that is there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_tools import samples
from data_tools.config import DataConfig
from data_tools.datasets.lineage import lineage_file
from data_tools.duplicate_stage import Found
from data_tools.duplicate_tasks import TABLES
from data_tools.selection import SPLITS
from data_tools.stages import Workshop
from megatrain.data.manifest import (
    Manifest,
    ShardInfo,
    TokenizerInfo,
    read_manifest,
    require_file_name,
    splits_in,
    write_manifest,
)
from megatrain.data.shard import token_dtype
from megatrain.data.stored import VERSION, check_version
from megatrain.data.tokenizer import FOLDER
from megatrain.errors import FailedWork, UserError
from megatrain.records import check_seal, parse_record, read_file, write_sealed

TABLES_FOLDER = "duplicates"
PARTS = "parts.json"
_PARTS_VERSION = 2


@dataclass(frozen=True)
class Shard:
    """A shard that is made: its split, the folder that it lies in, its description."""

    split: str
    folder: Path
    info: ShardInfo


@dataclass(frozen=True)
class Base:
    """What a dataset has when sources are added to it; nothing, where it is new."""

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    """Of each split, with the shards of the sources that it has."""
    parts: Sequence[Mapping[str, Any]] = ()
    """Its collected tasks, with the folders of their tables."""
    tokenizer: tuple[str, TokenizerInfo] | None = None

    def corpus(self, config: DataConfig, new: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """All parts, those that are there first, as JSON values."""
        sources = list(dict.fromkeys([*(part["source"] for part in self.parts), *config.sources]))
        return {"sources": sources, "parts": [*self.parts, *new]}

    def shards(self, split: str) -> tuple[ShardInfo, ...]:
        return self.manifests[split].shards if split in self.manifests else ()

    def next_number(self, split: str) -> int:
        """Of the next shard's file; numbers may be missing, none is used twice."""
        return 1 + max((int(info.name[6:-6]) for info in self.shards(split)), default=-1)

    def made(self, new: Mapping[str, Any]) -> dict[str, Any]:
        """What is told of the dataset with the new sources: each source has its own entry."""
        old = next(iter(self.manifests.values())).made if self.manifests else {}
        return added(old, new) if old else dict(new)


def read_base(folder: Path, sources: set[str]) -> Base:
    """A dataset as it was with these sources, also where adding others was cut off in the middle.

    Raises UserError where it lacks the tables that new documents are compared with.
    """
    manifests = {}
    for path in splits_in(folder):
        manifest = read_manifest(path)
        shards = tuple(shard for shard in manifest.shards if shard.source in sources)
        if shards:
            manifests[path.name] = replace(manifest, shards=shards, made=_only(manifest.made, sources))
    tables = folder / TABLES_FOLDER
    parts = [
        {**part, "folder": str((tables / part["folder"]).absolute())}
        for part in read_parts(tables / PARTS)
        if part["source"] in sources
    ]
    info = next(iter(manifests.values())).tokenizer
    return Base(manifests, parts, (str(folder.absolute() / FOLDER), info))


def read_parts(path: Path) -> list[dict[str, Any]]:
    """Return what `parts.json` names: a source, documents and folder each.

    Version 1 was a list without a hash. Raises UserError where there is none, FailedWork where it is damaged.
    """
    try:
        content = read_file(path)
        tree: Any = {"parts": json.loads(content)} if content.lstrip().startswith(b"[") else None
        if tree is None:
            tree = parse_record(content)
            check_seal(tree, required=True)
            check_version(tree.get(VERSION), path, _PARTS_VERSION)
        parts = [dict(part) for part in tree["parts"]]
        for part in parts:
            if not (isinstance(part["source"], str) and type(part["documents"]) is int):
                raise ValueError("source or documents of another type")
            require_file_name(part["folder"])
    except FileNotFoundError:
        raise UserError(
            f"{path.parent.parent}: has no {TABLES_FOLDER}/{PARTS}, so no source can be added; make it anew "
            "with duplicates.keep_tables=true"
        ) from None
    except OSError as error:
        raise FailedWork(f"{path}: cannot be read: {error.strerror}; restore this file") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise FailedWork(f"{path}: damaged ({error}); restore this file") from None
    return parts


def added(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two records of different sources as one."""
    both = {
        name: {**old.get(name, {}), **new[name]}
        for name in (
            "counts",
            "changes",
            "languages",
            "evaluation_sets",
            "left_out",
            "metadata",
            "inputs",
            "files",
        )
        if name in new
    }
    sources = {**old["config"]["sources"], **new["config"]["sources"]}
    return {**new, **both, "config": {**new["config"], "sources": sources}}


def assemble(
    target: Path,
    base: Base,
    shards: Sequence[Shard],
    info: TokenizerInfo,
    made: Mapping[str, Any],
    shop: Workshop,
) -> None:
    """Put the shards in their places, and last the manifests, which make them count."""
    for shard in shards:
        place = target / shard.split / shard.info.name
        for file, home in ((shard.info.name, place), ("lineage.parquet", lineage_file(place))):
            home.parent.mkdir(parents=True, exist_ok=True)
            _link(shard.folder / file, home)
    for split in SPLITS:
        mine = base.shards(split) + tuple(shard.info for shard in shards if shard.split == split)
        if mine:
            dtype = str(token_dtype(info.vocab_size))
            write_manifest(target / split, Manifest(split, dtype, info, mine, base.made(made)))
        elif getattr(shop.config.split, split):
            shop.progress.note(
                f"warning: no document fell to the {split} split: none is written; raise split.{split}"
            )


def put_tokenizer(files: Path, target: Path) -> None:
    """The tokenizer's files into a new dataset."""
    shutil.copytree(files, target / FOLDER)


def put_tables(shop: Workshop, found: Found, target: Path) -> None:
    """What later sources are compared with, as far as the config wants to keep it."""
    if not shop.config.duplicates.keep_tables:
        return
    home = target / TABLES_FOLDER
    told = []
    for number, part in enumerate(found.corpus["parts"]):
        told.append({**part, "folder": f"{number:05d}"})
        place = home / f"{number:05d}"
        source = shop.folder / part["folder"]
        if source == place.absolute():
            continue  # it is there, for it was there before
        place.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            if (source / f"{name}.arrow").is_file():
                _link(source / f"{name}.arrow", place / f"{name}.arrow")
    write_sealed(home / PARTS, {VERSION: _PARTS_VERSION, "parts": told})


def put_samples(shop: Workshop, parts: Sequence[Mapping[str, Any]], target: Path) -> None:
    """A few documents of each source that was made, for each reason to drop one."""
    (target / "dropped").mkdir(exist_ok=True)
    for name in shop.config.sources:
        files = [shop.folder / part["folder"] / "dropped.jsonl" for part in parts if part["source"] == name]
        samples.merged(files, shop.config.samples, target / "dropped" / f"{name}.jsonl")


def _only(made: Mapping[str, Any], sources: set[str]) -> dict[str, Any]:
    """What is told of some sources alone."""
    config = {
        **made["config"],
        "sources": {n: s for n, s in made["config"]["sources"].items() if n in sources},
    }
    parts = {
        name: {source: told for source, told in made[name].items() if source in sources}
        for name in ("counts", "changes", "languages", "left_out", "metadata")
        if name in made
    }
    return {**made, **parts, "config": config}


def _link(file: Path, place: Path) -> None:
    """The same file under another name; what an attempt that was cut off has put there gives way."""
    place.unlink(missing_ok=True)
    os.link(file, place)
