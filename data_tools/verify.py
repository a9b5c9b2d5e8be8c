"""Whether a dataset is still what was written, and is sound: one line for each fault."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from data_tools.beside import MEND, UNFINISHED, FileTask, check_file, faults_beside
from data_tools.datasets.ids import files_for, first_of_each, hex_id, spread
from data_tools.datasets.lineage import FOLDER as LINEAGE
from data_tools.datasets.shards import (
    ShardColumns,
    processes_for,
    read_columns,
    require_size,
    require_unchanged,
    split_folders,
)
from data_tools.progress import Progress
from data_tools.workers import pool
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import MANIFEST, ShardInfo, TokenizerInfo, read_manifest
from megatrain.data.packing import parse_plan, plan_folder
from megatrain.data.tokenizer import Tokenizer, find_tokenizer
from megatrain.errors import FailedWork, UserError
from megatrain.records import read_file

_CHUNK = 1 << 24


@dataclass(frozen=True)
class ShardTask:
    """One shard to check against its manifest; of the content when it is not `quick`."""

    path: Path
    info: ShardInfo
    dtype: str
    tokenizer: TokenizerInfo
    quick: bool


def faults(
    folder: Path, *, quick: bool = False, workers: int = 0, progress: Progress | None = None
) -> Iterator[str]:
    """What is wrong with a dataset or with one of its splits, a line each as it is found.

    `quick` looks at manifests, tokenizer and sizes alone. Raises UserError where there is no dataset.
    """
    if (folder / UNFINISHED).exists():
        yield f"{folder}: sources were being added when that was cut off; run the same command again"
        return
    told: list[str] = []
    for fault in _all_faults(folder, quick, workers, progress or Progress()):
        told.append(fault)
        yield fault
    if not quick and not told:  # the ids of shards that are damaged say nothing
        splits = split_folders(folder).items()
        yield from _shared_documents({name: TokenDataset(path, read_manifest(path)) for name, path in splits})


def _all_faults(folder: Path, quick: bool, workers: int, progress: Progress) -> Iterator[str]:
    """Each file is told of once, by whoever knows most of it."""
    splits: dict[str, TokenDataset] = {}
    told: list[str] = []
    for name, path in split_folders(folder).items():
        try:
            splits[name] = TokenDataset(path, read_manifest(path))
        except FailedWork as error:
            told.append(str(error))
        except OSError as error:
            told.append(f"{path / MANIFEST}: cannot be read: {error.strerror}; {MEND}")
    told += [*_split_faults(folder, splits), *_tokenizer_faults(splits)]
    yield from told
    yield from _shard_faults(splits, quick, workers, progress)
    yield from _plan_faults(splits, quick)
    for path, fault in faults_beside(folder, splits, quick, workers, progress):
        if not any(one.startswith(f"{path}:") for one in told):
            yield fault


def summary(folder: Path, *, quick: bool) -> str:
    """What is to be said of a dataset without faults."""
    splits = split_folders(folder)
    shards = [shard for path in splits.values() for shard in read_manifest(path).shards]
    looked_at = "the sizes are" if quick else "hashes, documents and ids are"
    return (
        f"{folder}: whole: {len(shards):,} shards in {', '.join(splits)}, "
        f"{sum(shard.bytes for shard in shards):,} bytes; {looked_at} as the manifests say"
    )


def check_shard(task: ShardTask) -> list[str]:
    """What is wrong with one shard."""
    path, info = task.path, task.info
    try:
        require_size(path, info)
        if task.quick:
            return []
        require_unchanged(path, info)
        return [f"{path}: {fault}" for fault in _content_faults(read_columns(path), task)]
    except FileNotFoundError:
        return [f"{path}: shard missing; {MEND}"]
    except OSError as error:
        return [f"{path}: cannot be read: {error.strerror}"]
    except FailedWork as error:
        return [str(error)]


def _split_faults(folder: Path, splits: Mapping[str, TokenDataset]) -> Iterator[str]:
    """Splits of which something lies there, shards or their lineage, but no manifest."""
    places = {path.parent for path in folder.glob("*/shard-*.arrow")}
    places -= set(folder.glob(plan_folder("*")))  # of a split by itself
    places |= {folder / path.name for path in (folder / LINEAGE).glob("*") if path.is_dir()}
    for place in sorted(places - {folder / name for name in splits}):
        if not (place / MANIFEST).exists():  # one that is damaged was told of
            yield f"{place / MANIFEST}: missing; {MEND}"


def _tokenizer_faults(splits: Mapping[str, TokenDataset]) -> Iterator[str]:
    unread = set[Path | None]()
    for dataset in splits.values():
        home = find_tokenizer(dataset.folder)
        try:
            found = Tokenizer.load(dataset.folder).info
        except (FailedWork, UserError) as error:
            if home not in unread:  # that of all splits is one
                yield str(error)
            unread.add(home)
            continue
        made_with = dataset.manifest.tokenizer
        if found != made_with:
            yield f"{dataset.folder}: its shards were made with {made_with}, beside them is {found}"


def _plan_faults(splits: Mapping[str, TokenDataset], quick: bool) -> Iterator[str]:
    """Of the plans for data.packing=best_fit; one without a manifest was cut off, and nobody reads it."""
    mend = "run `megatrain data pack` again"
    for dataset in splits.values():
        for home in sorted(dataset.folder.glob(plan_folder("*"))):
            path = home / MANIFEST
            try:
                plan = parse_plan(read_file(path), path)
            except FileNotFoundError:
                continue
            except (FailedWork, UserError) as error:
                yield str(error)
                continue
            except OSError as error:
                yield f"{path}: cannot be read: {error.strerror}; {mend}"
                continue
            if [one.tokens_hash for one in plan.shards] != [
                shard.tokens_hash for shard in dataset.manifest.shards
            ]:
                yield f"{home}: the plan is of other shards; {mend}"
                continue
            for one in plan.shards:
                fault = check_file(FileTask(home / one.name, one.bytes, None if quick else one.hash, mend))
                if fault is not None:
                    yield fault


def _shard_faults(
    splits: Mapping[str, TokenDataset], quick: bool, workers: int, progress: Progress
) -> Iterator[str]:
    tasks = [
        ShardTask(dataset.folder / info.name, info, dataset.manifest.dtype, dataset.manifest.tokenizer, quick)
        for dataset in splits.values()
        for info in dataset.manifest.shards
    ]
    with pool(1 if quick else processes_for((task.info for task in tasks), workers)) as over:
        for found in progress.track("verify, shards", over(check_shard, tasks), len(tasks)):
            yield from found
    for dataset in splits.values():
        known = {info.name for info in dataset.manifest.shards}
        for path in sorted(dataset.folder.glob("*.arrow")):
            if path.name not in known:
                yield f"{path}: is in no manifest; remove it"


def _content_faults(columns: ShardColumns, task: ShardTask) -> Iterator[str]:
    info = task.info
    counted = {
        "documents": (len(columns.offsets) - 1, info.documents),
        "tokens": (len(columns.tokens), info.tokens),
        "values_offset": (columns.values_offset, info.values_offset),
        "source": (", ".join(columns.sources), info.source),
        "dtype": (str(columns.tokens.dtype), task.dtype),
        "tokenizer": (_tokenizer_hash(columns.metadata), task.tokenizer.hash),
        "tokens_hash": (xxhash.xxh3_128_hexdigest(columns.tokens.data), info.tokens_hash),
    }
    for name, (found, said) in counted.items():
        if found != said:
            yield f"{name} is {found}, the manifest says {said}"
    yield from _document_faults(columns, task.tokenizer)


def _tokenizer_hash(metadata: Mapping[bytes, bytes]) -> object:
    try:
        return json.loads(metadata[b"megatrain"])["tokenizer_hash"]
    except (ValueError, LookupError, TypeError):
        return None


def _document_faults(columns: ShardColumns, tokenizer: TokenizerInfo) -> Iterator[str]:
    offsets, tokens = columns.offsets, columns.tokens
    lengths = columns.lengths
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (lengths < 1).any():
        row = int(np.argmax(lengths < 1))
        yield f"its documents do not follow each other, e.g. that of row {row:,}"
        return
    open_ended = np.flatnonzero(tokens[offsets[1:] - 1] != tokenizer.eos_id)
    if len(open_ended):
        row = int(open_ended[0])
        yield (
            f"{len(open_ended):,} documents do not end with EOS ({tokenizer.eos_id}), e.g. "
            f"{columns.doc_id(row).hex()} in row {row:,}"
        )
    for start in range(0, len(tokens), _CHUNK):  # a chunk at a time: the comparison is an array of its size
        beyond = np.flatnonzero(tokens[start : start + _CHUNK] >= tokenizer.vocab_size)
        if len(beyond):
            at = start + int(beyond[0])
            yield f"token {at:,} is id {int(tokens[at])}, the vocabulary has {tokenizer.vocab_size:,}"
            return


def _shared_documents(splits: Mapping[str, TokenDataset]) -> Iterator[str]:
    """A document in two splits: what is evaluated on was trained on."""
    names = list(splits)
    shared: dict[tuple[int, int], int] = {}
    examples: dict[tuple[int, int], str] = {}
    with tempfile.TemporaryDirectory(prefix="megatrain-") as work:
        table = spread(splits, Path(work, "ids"), files_for([splits]))
        split_of = np.array([names.index(label.split) for label in table.labels])
        for rows in map(table.rows, range(table.files)):
            if not len(rows):
                continue
            starts = np.flatnonzero(first_of_each(rows))
            low = np.minimum.reduceat(split_of[rows["label"]], starts)
            high = np.maximum.reduceat(split_of[rows["label"]], starts)
            for at in np.flatnonzero(low != high).tolist():
                pair = (int(low[at]), int(high[at]))
                shared[pair] = shared.get(pair, 0) + 1
                examples.setdefault(pair, hex_id(rows[starts[at]]))
    for (low_name, high_name), count in shared.items():
        yield (
            f"{count:,} documents are in {names[low_name]} and in {names[high_name]}, e.g. "
            f"{examples[low_name, high_name]}; prepare the dataset again"
        )
