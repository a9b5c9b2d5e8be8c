"""The stages of a preparation, one after the other: raw files to a folder that has all of a dataset in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.assemble import Base, Shard, assemble, put_tokenizer
from data_tools.duplicate_stage import removed_documents
from data_tools.inputs import Inputs
from data_tools.selection import SPLITS
from data_tools.shards import plan_ranges
from data_tools.stages import Workshop
from data_tools.tokenizer_stage import make_tokenizer
from megatrain.data.manifest import ShardInfo, TokenizerInfo
from megatrain.data.shard import token_dtype
from megatrain.errors import require

# Part of every record: an output of another version of these steps is another output.
PIPELINE_VERSION = 2
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collected:
    """What the first stage gave, a task each."""

    stage: str
    results: Sequence[Mapping[str, Any]]

    @property
    def folders(self) -> list[str]:
        """Of the tasks, in the workshop."""
        return [f"{self.stage}/{number:05d}" for number in range(len(self.results))]

    @property
    def first_rows(self) -> list[int]:
        """The number of each task's first document among all."""
        return list(accumulate((result["documents"] for result in self.results), initial=0))[:-1]

    def of(self, source: str) -> list[int]:
        """The tasks of a source."""
        return [number for number, result in enumerate(self.results) if result["source"] == source]


def make(shop: Workshop, inputs: Inputs, target: Path, base: Base) -> dict[str, Any]:
    """All the stages; what they give is put together in `target`, an empty folder or the dataset that grows.

    Gives what is recorded of the sources that were made.
    """
    collected = _collect(shop, inputs)
    removed = _remove_duplicates(shop, collected, base)
    counts = _counts(shop, collected, removed)
    for name, per_source in counts.items():
        shop.progress.note(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in per_source.items()))
    _require_documents(counts)
    tokenizer, info = base.tokenizer or make_tokenizer(shop, collected.folders, removed, collected.stage)
    tokenized, encoded = _tokenize(shop, collected, removed, tokenizer)
    shards = _write_shards(shop, inputs, collected, tokenized, encoded, info, base)
    hashes = {url: found for result in collected.results for url, found in result["raw_hashes"].items()}
    made = {
        "pipeline_version": PIPELINE_VERSION,
        "config": shop.config.deciding(),
        "counts": counts,
        "changes": _summed(shop, collected, "changes"),
        "languages": _summed(shop, collected, "languages"),
    }
    dropped = {
        name: [shop.folder / collected.folders[number] / "dropped.jsonl" for number in collected.of(name)]
        for name in shop.config.sources
    }
    if base.tokenizer is None:
        put_tokenizer(shop.folder / tokenizer, target)
    assemble(target, base, shards, info, made, dropped, shop)
    return {**made, "inputs": {url: {**stat, "hash": hashes[url]} for url, stat in inputs.stats().items()}}


def _collect(shop: Workshop, inputs: Inputs) -> Collected:
    deciding = shop.config.deciding()
    decides = [PIPELINE_VERSION, deciding["sources"], deciding["steps"], shop.config.samples, inputs.stats()]
    return Collected(*shop.stage("collect", inputs.tasks(shop.config.task_mib), {}, decides))


def _remove_duplicates(shop: Workshop, collected: Collected, base: Base) -> str:
    """The file, in the workshop, that lists the removed documents."""
    folders = [shop.folder / folder for folder in collected.folders]
    table = removed_documents(folders, base.keys, shop.config.duplicates)
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


def _summed(shop: Workshop, collected: Collected, what: str) -> Counts:
    """Of each source the sum of its tasks' counts."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in shop.config.sources}
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
    rows = zip(collected.first_rows, collected.folders, collected.results, strict=True)
    tasks = [
        {"source": result["source"], "collected": folder, "first_row": first}
        for first, folder, result in rows
    ]
    deciding = shop.config.deciding()
    decides = [PIPELINE_VERSION, deciding["split"], deciding["seed"], deciding["duplicates"]]
    return shop.stage("tokenize", tasks, {"removed": removed, "tokenizer": tokenizer}, decides)


def _write_shards(
    shop: Workshop,
    inputs: Inputs,
    collected: Collected,
    tokenized: str,
    encoded: Sequence[Mapping[str, Any]],
    info: TokenizerInfo,
    base: Base,
) -> list[Shard]:
    """All shards, in the order of their numbers."""
    files = [[part["url"] for part in task["parts"]] for task in inputs.tasks(shop.config.task_mib)]
    parts = {
        name: [
            {
                "folder": f"{tokenized}/{number:05d}",
                "files": files[number],
                "languages": encoded[number]["languages"],
            }
            for number in collected.of(name)
        ]
        for name in sorted(shop.config.sources)
    }
    tasks: list[dict[str, Any]] = []
    for split in SPLITS:
        count = base.next_number(split)
        for name in parts:
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
        Shard(task["split"], shop.folder / stage / f"{number:05d}", ShardInfo(**result))
        for number, (task, result) in enumerate(zip(tasks, results, strict=True))
    ]
