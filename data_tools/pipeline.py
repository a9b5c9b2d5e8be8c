"""The stages of a preparation, one after the other: raw files to a folder that has all of a dataset in it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.assemble import Base, Shard, assemble, put_samples, put_tables, put_tokenizer
from data_tools.config_files import evaluation_sets
from data_tools.duplicate_stage import Found, find_duplicates
from data_tools.inputs import Inputs, ReplacedFile, recorded, require_unchanged_since
from data_tools.output import mark_unfinished
from data_tools.progress import flow_lines
from data_tools.readers import Source, require_few_broken
from data_tools.readers.source import kind_of
from data_tools.readers.unchanged import require_same_hashes
from data_tools.selection import SPLITS
from data_tools.shards import plan_ranges
from data_tools.stages import Workshop
from data_tools.tokenize import plan_runs
from data_tools.tokenizer_stage import tokenizer_of
from megatrain.data.manifest import ShardInfo, TokenizerInfo
from megatrain.data.shard import token_dtype
from megatrain.errors import require

# Part of every record: an output of another version of these steps is another output.
PIPELINE_VERSION = 4
_ENCODED_VERSION = 2  # of what the stage of the tokens leaves for the next one
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Collected:
    """What the first stage gave, a task each."""

    stage: str
    results: Sequence[Mapping[str, Any]]

    def parts(self) -> list[dict[str, Any]]:
        """The tasks as parts of a corpus."""
        return [
            {
                "source": result["source"],
                "documents": result["documents"],
                "folder": f"{self.stage}/{number:05d}",
            }
            for number, result in enumerate(self.results)
        ]


@dataclass(frozen=True)
class Encoded:
    """What the stage of the tokens gave, a task each: some or all documents of a collected task."""

    stage: str
    of: Sequence[int]
    """The numbers of the collected tasks."""
    results: Sequence[Mapping[str, Any]]


def make(
    shop: Workshop, inputs: Inputs, files: Mapping[str, str], target: Path, base: Base
) -> dict[str, Any]:
    """All the stages; what they give is put together in `target`, an empty folder or the dataset that grows.

    `files` are the hashes of what the config names besides raw files, by path. Gives what is recorded of the
    sources that were made.
    """
    for line in inputs.notes():
        shop.progress.note(line)
    collected = _collect(shop, inputs, files)
    found = find_duplicates(shop, base.corpus(shop.config, collected.parts()))
    tokenizer, info = base.tokenizer or tokenizer_of(shop, found, files)
    encoded = _tokenize(shop, found, len(base.parts), tokenizer)
    counts = _counts(shop, collected, encoded)
    for name, per_source in counts.items():
        for line in flow_lines(name, per_source):
            shop.progress.note(line)
    _require_documents(counts)
    shards = _write_shards(shop, collected, encoded, info, base)
    made = {
        "pipeline_version": PIPELINE_VERSION,
        "config": shop.config.deciding(),
        "files": files,
        "counts": counts,
        "changes": _summed(shop, [*_by_source(collected), *_by_source(collected, encoded)], "changes"),
        "languages": _summed(shop, _by_source(collected, encoded), "languages"),
        "evaluation_sets": evaluation_sets(shop.config),
        "left_out": inputs.left_out,
        "metadata": _summed(shop, _by_source(collected), "metadata"),
    }
    require(
        any(shard.split == "train" for shard in shards),
        "sources: no document fell to the train split; give more documents",
    )
    require_same_hashes(files)
    _require_same_inputs(shop, collected)
    if base.tokenizer is not None:
        mark_unfinished(target)
    if base.tokenizer is None:
        put_tokenizer(shop.folder / tokenizer, target)
    put_tables(shop, found, target)
    put_samples(shop, collected.parts(), target)
    assemble(target, base, shards, info, made, shop)
    read = [part for result in collected.results for part in result["read"]]
    return {**made, "inputs": recorded(inputs, read), "duplicates": found.report}


def _collect(shop: Workshop, inputs: Inputs, files: Mapping[str, str]) -> Collected:
    deciding = shop.config.deciding()
    wanted = [deciding[name] for name in ("sources", "steps", "duplicates")]
    decides = [PIPELINE_VERSION, *wanted, shop.config.samples, inputs.stats()]
    collected = Collected(*shop.stage("collect", inputs.tasks(), {"files": files}, decides))
    for name, source in shop.config.sources.items():
        counts = sum((Counter(r["counts"]) for r in collected.results if r["source"] == name), Counter())
        require_few_broken(name, source, counts["read"], counts)
    for line in _idle_options(shop, inputs, collected):
        shop.progress.note(f"warning: {line}")
    _require_documents(_counts(shop, collected, None))
    return collected


def _idle_options(shop: Workshop, inputs: Inputs, collected: Collected) -> Iterator[str]:
    """What the config asks for and no file has: columns of metadata, a separator of documents."""
    seen = _summed(shop, _by_source(collected), "metadata")
    for name, source in shop.config.sources.items():
        for target, column in source.metadata.items():
            if not seen[name].get(target):
                yield f"sources.{name}.metadata.{target}: no record has {column}"
        texts = sum(_is_text(file.url, source) for file in inputs.files[name])
        unparted = sum(result["unparted"] for of, result in _by_source(collected) if of == name)
        if source.document_separator is not None and unparted:
            separator = json.dumps(source.document_separator)
            yield (
                f"sources.{name}.document_separator: {separator} does not occur in {unparted:,} of "
                f"{texts:,} files: each is one document"
            )


def _is_text(url: str, source: Source) -> bool:
    kind = kind_of(url, source)
    return kind is not None and kind.format == "txt"


def _require_same_inputs(shop: Workshop, collected: Collected) -> None:
    """Raise FailedWork where a raw file is no longer what a task read: other tasks may have read another
    content."""
    try:
        for result in collected.results:
            require_unchanged_since(result["read"], result["looks"])
    except ReplacedFile:
        shutil.rmtree(shop.folder)  # its tasks have the same names as those of the new content
        raise


def _counts(shop: Workshop, collected: Collected, encoded: Encoded | None) -> Counts:
    """Documents by what befell them, for each source: read, dropped by reason, kept.

    Before any are `encoded`, those that were collected count as kept.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in shop.config.sources}
    for source, result in _by_source(collected):
        counts[source].update(result["counts"])
        if encoded is None:
            counts[source]["kept"] += result["documents"]
    if encoded is not None:
        for source, result in _by_source(collected, encoded):
            counts[source].update(result["counts"])
    return {name: {what: n for what, n in sorted(mine.items()) if n} for name, mine in counts.items()}


def _by_source(collected: Collected, encoded: Encoded | None = None) -> list[tuple[str, Mapping[str, Any]]]:
    """Of each task its source and what it gave: of those that collected, or of those that encoded."""
    if encoded is None:
        return [(result["source"], result) for result in collected.results]
    return [
        (collected.results[number]["source"], result)
        for number, result in zip(encoded.of, encoded.results, strict=True)
    ]


def _summed(shop: Workshop, results: Sequence[tuple[str, Mapping[str, Any]]], what: str) -> Counts:
    """Of each source the sum of its tasks' counts."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in shop.config.sources}
    for source, result in results:
        sums[source].update(result[what])
    return {name: dict(sorted(mine.items())) for name, mine in sums.items()}


def _require_documents(counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, per_source in counts.items():
        dropped = ", ".join(f"{what} {count}" for what, count in per_source.items() if count) or "none read"
        require(
            per_source.get("kept", 0),
            f"sources.{name}: no document is left ({dropped}); "
            + (
                "leave it out: all that passed its steps stands in other sources"
                if any(what.startswith("duplicates.") for what in per_source)
                else "check its files, text_column and steps"
            ),
        )


def _tokenize(shop: Workshop, found: Found, first_part: int, tokenizer: str) -> Encoded:
    """Of the parts that are not the base's."""
    tasks = [
        {"part": number, "first": first, "last": last}
        for number, part in enumerate(found.corpus["parts"][first_part:], first_part)
        for first, last in plan_runs(shop.folder / part["folder"])
    ]
    deciding = shop.config.deciding()
    decides = [PIPELINE_VERSION, _ENCODED_VERSION]
    decides += [deciding["split"], deciding["seed"], deciding["duplicates"]]
    shared = {"found": found.shared(), "tokenizer": tokenizer}
    stage, results = shop.stage("tokenize", tasks, shared, decides)
    return Encoded(stage, [task["part"] - first_part for task in tasks], results)


def _write_shards(
    shop: Workshop, collected: Collected, encoded: Encoded, info: TokenizerInfo, base: Base
) -> list[Shard]:
    """All shards, in the order of their numbers."""
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in sorted(shop.config.sources)}
    for at, (number, result) in enumerate(zip(encoded.of, encoded.results, strict=True)):
        before, folder = collected.results[number], f"{encoded.stage}/{at:05d}"
        parts[before["source"]].append(
            {"folder": folder, "files": before["files"], "languages": list(result["languages"])}
        )
    tasks: list[dict[str, Any]] = []
    for split in SPLITS:
        count = base.next_number(split)
        for name in parts:
            indices = [shop.folder / part["folder"] / f"{split}.npy" for part in parts[name]]
            for low, high in plan_ranges(indices, shop.config.shards.max_tokens):
                file = f"shard-{count:05d}.arrow"
                tasks.append({"split": split, "source": name, "name": file, "low": low, "high": high})
                count += 1
    shared = {"parts": parts, "dtype": str(token_dtype(info.vocab_size)), "tokenizer_hash": info.hash}
    stage, results = shop.stage("shards", tasks, shared, PIPELINE_VERSION)
    return [
        Shard(task["split"], shop.folder / stage / f"{number:05d}", ShardInfo(**result))
        for number, (task, result) in enumerate(zip(tasks, results, strict=True))
    ]
