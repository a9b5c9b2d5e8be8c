"""The stages of a preparation, one after the other: raw files to a folder that has all of a dataset in it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools import samples
from data_tools.config import DataConfig
from data_tools.duplicate_stage import removed_documents
from data_tools.inputs import Inputs
from data_tools.selection import SPLITS
from data_tools.shards import plan_ranges
from data_tools.stages import Workshop
from data_tools.tokenizer_stage import make_tokenizer
from megatrain.data.manifest import Manifest, ShardInfo, TokenizerInfo, write_manifest
from megatrain.data.shard import token_dtype
from megatrain.data.tokenizer import FOLDER
from megatrain.errors import require

# Part of every record: an output of another version of these steps is another output.
PIPELINE_VERSION = 2
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collected:
    """What the first stage gave: its task folders, the first document's number of each, and their results."""

    stage: str
    first_rows: Sequence[int]
    results: Sequence[Mapping[str, Any]]

    @property
    def folders(self) -> list[str]:
        return [f"{self.stage}/{number:05d}" for number in range(len(self.results))]

    def of(self, source: str) -> list[int]:
        return [number for number, result in enumerate(self.results) if result["source"] == source]


def make(shop: Workshop, inputs: Inputs, partial: Path) -> dict[str, Any]:
    """All the stages, and what they gave put together in an empty folder; gives the output's record."""
    config = shop.config
    collected = _collect(shop, inputs)
    removed = _remove_duplicates(shop, collected)
    counts = _counts(shop, collected, removed)
    for name, per_source in counts.items():
        shop.progress.note(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in per_source.items()))
    _require_documents(counts)
    tokenizer, info = make_tokenizer(shop, collected.folders, removed, collected.stage)
    tokenized, encoded = _tokenize(shop, collected, removed, tokenizer)
    shards = _shards(shop, inputs, collected, tokenized, encoded, info)
    made = {
        "pipeline_version": PIPELINE_VERSION,
        "config": config.deciding(),
        "counts": counts,
        "changes": _summed(config, collected, "changes"),
        "languages": _summed(config, collected, "languages"),
    }
    shutil.copytree(shop.folder / tokenizer, partial / FOLDER)
    _gather(shop, partial, shards, info, made)
    dropped = partial / "dropped"
    dropped.mkdir()
    for name in config.sources:
        files = [shop.folder / collected.folders[number] / "dropped.jsonl" for number in collected.of(name)]
        samples.merged(files, config.samples, dropped / f"{name}.jsonl")
    hashes = {url: found for result in collected.results for url, found in result["raw_hashes"].items()}
    return {
        "pipeline_version": PIPELINE_VERSION,
        "config": config.deciding(),
        "inputs": {url: {**stat, "hash": hashes[url]} for url, stat in inputs.stats().items()},
        "counts": counts,
    }


def _collect(shop: Workshop, inputs: Inputs) -> Collected:
    tasks = inputs.tasks(shop.config.task_mib)
    decides = [PIPELINE_VERSION, shop.config.deciding()["sources"], shop.config.deciding()["steps"]]
    stage, results = shop.stage(
        "collect", tasks, {"samples": shop.config.samples}, [*decides, inputs.stats()]
    )
    sizes = [result["documents"] for result in results]
    return Collected(stage, [sum(sizes[:number]) for number in range(len(sizes))], results)


def _remove_duplicates(shop: Workshop, collected: Collected) -> str:
    """The file, in the workshop, that lists the removed documents."""
    table = removed_documents([shop.folder / folder for folder in collected.folders], shop.config.duplicates)
    name = f"removed-{collected.stage.partition('-')[2]}.npy"
    with (shop.folder / name).open("wb") as stream:
        np.save(stream, table)
    return name


def _counts(shop: Workshop, collected: Collected, removed: str) -> Counts:
    """Documents by what befell them, for each source: read, dropped by reason, kept."""
    table = np.load(shop.folder / removed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in shop.config.sources}
    for first, folder, result in zip(collected.first_rows, collected.folders, collected.results, strict=True):
        mine = counts[result["source"]]
        mine.update(result["counts"])
        lengths = np.load(shop.folder / folder / "lengths.npy")
        low, high = np.searchsorted(table["row"], [first, first + len(lengths)])
        gone = table["row"][low:high] - first
        mine["duplicates.exact"] += len(gone)
        mine["kept"] += len(lengths) - len(gone)
        mine["kept_bytes"] += int(lengths.sum() - lengths[gone].sum())
    return {name: {what: n for what, n in sorted(mine.items()) if n} for name, mine in counts.items()}


def _summed(config: DataConfig, collected: Collected, what: str) -> Counts:
    """Of each source the sum of its tasks' counts."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in config.sources}
    for result in collected.results:
        sums[result["source"]].update(result[what])
    return {name: dict(sorted(mine.items())) for name, mine in sums.items()}


def _require_documents(counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, per_source in counts.items():
        dropped = ", ".join(f"{what} {count}" for what, count in per_source.items() if count) or "none read"
        require(
            per_source.get("kept", 0),
            f"sources.{name}: no document is left ({dropped}); check its files, text_column and steps",
        )


def _tokenize(
    shop: Workshop, collected: Collected, removed: str, tokenizer: str
) -> tuple[str, list[dict[str, Any]]]:
    tasks = [
        {"source": result["source"], "collected": folder, "first_row": first}
        for first, folder, result in zip(
            collected.first_rows, collected.folders, collected.results, strict=True
        )
    ]
    deciding = shop.config.deciding()
    decides = [PIPELINE_VERSION, deciding["split"], deciding["seed"], deciding["duplicates"]]
    return shop.stage("tokenize", tasks, {"removed": removed, "tokenizer": tokenizer}, decides)


def _shards(
    shop: Workshop,
    inputs: Inputs,
    collected: Collected,
    tokenized: str,
    encoded: Sequence[Mapping[str, Any]],
    info: TokenizerInfo,
) -> list[tuple[str, Path, ShardInfo]]:
    """The split, the folder and the description of each shard, in order."""
    sources = sorted(shop.config.sources)
    task_inputs = inputs.tasks(shop.config.task_mib)
    parts = {
        name: [
            {
                "folder": f"{tokenized}/{number:05d}",
                "files": [part["url"] for part in task_inputs[number]["parts"]],
                "languages": encoded[number]["languages"],
            }
            for number in collected.of(name)
        ]
        for name in sources
    }
    tasks: list[dict[str, Any]] = []
    for split in SPLITS:
        count = 0
        for name in sources:
            indices = [shop.folder / part["folder"] / f"{split}.npy" for part in parts[name]]
            for low, high in plan_ranges(indices, shop.config.shards.max_tokens):
                file = f"shard-{count:05d}.arrow"
                tasks.append({"split": split, "source": name, "name": file, "low": low, "high": high})
                count += 1
    shared = {
        "parts": parts,
        "dtype": str(token_dtype(info.vocab_size)),
        "tokenizer_hash": info.hash,
    }
    stage, results = shop.stage("shards", tasks, shared, PIPELINE_VERSION)
    return [
        (task["split"], shop.folder / stage / f"{number:05d}", ShardInfo(**result))
        for number, (task, result) in enumerate(zip(tasks, results, strict=True))
    ]


def _gather(
    shop: Workshop,
    partial: Path,
    shards: Sequence[tuple[str, Path, ShardInfo]],
    info: TokenizerInfo,
    made: Mapping[str, Any],
) -> None:
    """Shards and lineage to their places, and a manifest for each split."""
    require(
        any(split == "train" for split, _, _ in shards),
        "sources: no document fell to the train split; give more documents",
    )
    for split, folder, shard in shards:
        lineage = partial / "lineage" / split
        (partial / split).mkdir(exist_ok=True)
        lineage.mkdir(parents=True, exist_ok=True)
        os.link(folder / shard.name, partial / split / shard.name)
        os.link(folder / "lineage.parquet", (lineage / shard.name).with_suffix(".parquet"))
    for split in SPLITS:
        mine = tuple(shard for at, _, shard in shards if at == split)
        if mine:
            dtype = str(token_dtype(info.vocab_size))
            write_manifest(partial / split, Manifest(split, dtype, info, mine, made))
        elif split == "train" or getattr(shop.config.split, split):
            shop.progress.note(
                f"warning: no document fell to the {split} split: none is written; raise split.{split}"
            )
