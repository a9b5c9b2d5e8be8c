"""Tokens of other tools to a dataset of ours: streamed into shards, committed at the end."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_tools import output
from data_tools.convert.batches import Batch, Cutter, by_source
from data_tools.convert.documents import Documents, DocumentsTask, make_documents
from data_tools.convert.exported import require_as_exported
from data_tools.convert.inputs import Format, Input, Place, open_input
from data_tools.convert.source_writer import SourceWriter
from data_tools.progress import Progress
from data_tools.readers.unchanged import look_at
from data_tools.workers import Map, pool
from megatrain.data.manifest import Manifest, ShardInfo, TokenizerInfo, write_manifest
from megatrain.data.shard import token_dtype
from megatrain.data.tokenizer import FOLDER, Tokenizer, find_tokenizer
from megatrain.errors import FailedWork, require


@dataclass(frozen=True)
class ImportConfig:
    """What to import and how."""

    inputs: Sequence[Place]
    format: Format
    tokenizer: Path
    """The folder of the tokenizer that made the tokens, as our datasets hold it, or a dataset with it."""
    output: Path
    cut: Literal["record", "eos"] = "record"
    """A record is a document; or: a document ends at each EOS, wherever the records end."""
    column: str = "tokens"
    """Where MDS and parquet have the tokens."""
    bytes_dtype: str | None = None
    """The type of tokens that MDS has as plain bytes."""
    max_tokens: int = 100_000_000
    """Of a shard; a longer document gets one of its own."""
    workers: int = 0
    """Processes; 0: one a core. The result does not depend on it."""


def import_dataset(config: ImportConfig, progress: Progress | None = None) -> dict[str, Manifest]:
    """Make a dataset and give its splits' manifests.

    Nothing appears at `output` before all of it is complete. Raises UserError for what can be seen before the
    tokens are read, FailedWork naming file and record after that.
    """
    progress = progress or Progress()
    target = output.placed(config.output)
    require(config.inputs, "nothing to import: name an input, SPLIT/SOURCE=PATH")
    inputs = [
        (place, open_input(config.format, place.path, column=config.column, bytes_dtype=config.bytes_dtype))
        for place in config.inputs
    ]
    tokenizer, home = Tokenizer.load(config.tokenizer), find_tokenizer(config.tokenizer)
    assert home is not None
    files = [file for _, one in inputs for file in one.files]
    looks = [look_at(file) for file in files]
    require_as_exported(files, tokenizer.hash)
    with output.locked(target):
        require(not target.exists(), f"{target}: is there already; choose another, or remove it")
        with output.making(target) as partial:
            shutil.copytree(home, partial / FOLDER)
            made = _Dataset(partial, tokenizer.info, config.max_tokens, progress)
            with pool(config.workers) as over:
                for place, one in inputs:
                    _read(made, config, place, one, over)
                    progress.note(f"{place}: {place.path} read; {made.told(place.split)} so far")
            record = {"pipeline_version": None, "config": {"import": _told(config)}}
            record |= {"counts": made.counts(), "changes": made.changes()}
            for name, done in made.changes().items():
                for what, count in done.items():
                    progress.note(f"{name}: {what} {count:,}")
            for file, before in zip(files, looks, strict=True):
                if look_at(file) != before:
                    raise FailedWork(f"{file}: changed while it was read; run the same command again")
            manifests = made.finish(record)
            output.commit(partial, target, {**record, "inputs": [str(file) for file in files]})
    progress.note(f"{target}: complete")
    return manifests


def _read(made: _Dataset, config: ImportConfig, place: Place, one: Input, over: Map) -> None:
    home = made.folder / FOLDER
    batches = _with_source(place, one)
    if config.cut == "eos":
        batches = _at_eos(batches, made.tokenizer.eos_id, config.max_tokens)
    tasks = (DocumentsTask(source, batch, home) for source, batch in batches)
    for documents in over(make_documents, tasks):
        made.add(place.split, documents)


def _with_source(place: Place, one: Input) -> Iterator[tuple[str, Batch]]:
    for batch in one.batches():
        if place.source is not None:
            yield place.source, batch
        elif batch.sources is not None:
            yield from by_source(batch)
        else:
            raise FailedWork(f"{batch.file}: its records name no source; write {place}/SOURCE={place.path}")


def _at_eos(batches: Iterator[tuple[str, Batch]], eos_id: int, most: int) -> Iterator[tuple[str, Batch]]:
    cutters: dict[str, Cutter] = {}
    for source, batch in batches:
        cutter = cutters.setdefault(source, Cutter(eos_id, most))
        yield source, cutter.cut(batch)
    for source, cutter in cutters.items():
        yield source, cutter.rest()


class _Dataset:
    """The dataset in the making: a writer for each split and source, and the counts."""

    def __init__(self, folder: Path, tokenizer: TokenizerInfo, max_tokens: int, progress: Progress) -> None:
        self.folder, self.tokenizer, self._max_tokens = folder, tokenizer, max_tokens
        self._progress = progress
        self._writers: dict[tuple[str, str], SourceWriter] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._changes: dict[str, Counter[str]] = {}

    def add(self, split: str, documents: Documents) -> None:
        key = (split, documents.source)
        if key not in self._writers:
            (self.folder / split).mkdir(exist_ok=True)
            self._writers[key] = SourceWriter(
                self.folder / split,
                f"source-{len(self._writers):03d}",
                documents.source,
                self.tokenizer,
                self._max_tokens,
            )
        writer = self._writers[key]
        for shard in writer.add(documents.tokens, documents.lengths, documents.doc_ids, documents.text_bytes):
            self._progress.note(f"{split}/{shard.source}: a shard of {shard.tokens:,} tokens written")
        self._counts.setdefault(documents.source, Counter()).update(
            {
                "read": len(documents.lengths) + documents.empty,
                "import.empty": documents.empty,
                "kept": len(documents.lengths),
                "kept_bytes": int(documents.text_bytes.sum()),
            }
        )

        if documents.added_eos:
            self._changes.setdefault(documents.source, Counter())["import.eos_added"] += documents.added_eos

    def changes(self) -> dict[str, dict[str, int]]:
        """What was done to the records of each source."""
        return {name: dict(self._changes.get(name, {})) for name in sorted(self._counts)}

    def counts(self) -> dict[str, dict[str, int]]:
        """What befell the records of each source."""
        return {name: dict(counts) for name, counts in sorted(self._counts.items())}

    def told(self, split: str) -> str:
        """How much a split has by now."""
        kept = sum(writer.documents for (name, _), writer in self._writers.items() if name == split)
        return f"{kept:,} documents in {split}"

    def finish(self, made: Mapping[str, Any]) -> dict[str, Manifest]:
        """Write what is left, name the shards by source, and the manifests. Raises FailedWork where there is
        no document."""
        manifests = {}
        for split in sorted({split for split, _ in self._writers}):
            writers = sorted(
                (writer for (name, _), writer in self._writers.items() if name == split),
                key=lambda writer: writer.source,
            )
            shards: list[ShardInfo] = []
            for writer in writers:
                shards += writer.named(len(shards))
            if not shards:
                raise FailedWork(f"{split}: none of the records holds a token; nothing was imported")
            dtype = str(token_dtype(self.tokenizer.vocab_size))
            manifests[split] = Manifest(split, dtype, self.tokenizer, tuple(shards), made)
            write_manifest(self.folder / split, manifests[split])
        if not manifests:
            raise FailedWork("the inputs hold no record; nothing was imported")
        return manifests


def _told(config: ImportConfig) -> dict[str, Any]:
    """The config without what does not decide the result."""
    tree = dataclasses.asdict(config)
    for name in ("output", "workers", "tokenizer"):
        del tree[name]
    tree["inputs"] = [f"{place}={place.path}" for place in config.inputs]
    return tree
