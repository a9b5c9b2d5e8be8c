"""Raw text to token shards: the steps of a preparation, one after the other."""

import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import output
from data_tools.collect import Collected, CollectTask, as_read, collect
from data_tools.config import DataConfig, load_config
from data_tools.progress import Progress
from data_tools.readers import InputPart, find_files
from data_tools.selection import SPLITS, Documents, first_of_each, shuffled, split_of, tabulate
from data_tools.train_tokenizer import read_model, train_tokenizer
from data_tools.workers import Map, pool
from data_tools.write_shards import read_text, write_source
from megatrain.data.manifest import (
    Manifest,
    ShardInfo,
    TokenizerInfo,
    read_manifest,
    splits_in,
    write_manifest,
)
from megatrain.data.shard import token_dtype
from megatrain.data.tokenizer import FOLDER, save_tokenizer
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError, require

# Part of every record: an output of another version of these steps is another output.
PIPELINE_VERSION = 1


@dataclass(frozen=True)
class Prepared:
    """A complete output: its folder, its splits' manifests by name, and whether this call made it."""

    folder: Path
    splits: Mapping[str, Manifest]
    made_now: bool


def prepare(config: DataConfig, progress: Progress | None = None) -> Prepared:
    """Make the dataset of a config, or find that it is made.

    Nothing appears at `config.output` before all of it is complete, so it may be killed at any moment and
    called again. The result depends on the config and the files alone. Raises UserError where the input is
    missing or empty, or the output was made by another config or from other files and `overwrite` is not
    set.
    """
    progress = progress or Progress()
    folder = Path(config.output)
    with output.locked(folder):
        files = {
            name: find_files(name, as_read(source, config.clean)) for name, source in config.sources.items()
        }
        inputs = _stat(files)
        if (record := output.read_record(folder)) is not None and not config.overwrite:
            _require_same(folder, record, config, inputs)
            progress.note(f"{folder}: already prepared from this config and these files; nothing to do")
            return Prepared(folder, _manifests(folder), made_now=False)
        partial = output.begin(folder)
        with pool(config.workers) as over:
            hashes, counts = _make(config, files, partial, over, progress)
        record = {
            "pipeline_version": PIPELINE_VERSION,
            "config": config.deciding(),
            "inputs": {path: {**stat, "hash": hashes[path]} for path, stat in inputs.items()},
            "counts": counts,
        }
        output.commit(partial, folder, record)
    progress.note(f"{folder}: complete")
    return Prepared(folder, _manifests(folder), made_now=True)


def _make(
    config: DataConfig, files: Mapping[str, list[InputPart]], partial: Path, over: Map, progress: Progress
) -> tuple[dict[str, str], dict[str, Any]]:
    """All the steps, into an empty folder. Gives the hash of each raw file and the counts of every step."""
    work = partial / "work"
    work.mkdir()
    collected = _collect(config, files, work, over, progress)
    everything = tabulate(collected, list(files))
    kept = everything.take(first_of_each(everything.keys)) if config.deduplicate == "exact" else everything
    counts = _counts(collected, everything, kept)
    for name, per_source in counts.items():
        progress.note(f"{name}: " + ", ".join(f"{what} {count:,}" for what, count in per_source.items()))
    _require_documents(counts)
    kept = kept.take(shuffled(kept.keys, config.seed))
    which = split_of(kept.keys, config.split)
    by_split = {name: kept.take(which == number) for number, name in enumerate(SPLITS)}
    require(len(by_split["train"]), "sources: no document fell to the train split; give more documents")
    home = partial / FOLDER
    info = save_tokenizer(home, _tokenizer_model(config, by_split["train"], progress))
    made = {"pipeline_version": PIPELINE_VERSION, "config": config.deciding(), "counts": counts}
    manifests = {
        name: _write_split(config, partial / name, documents, (home, info), made, over, progress)
        for name, documents in by_split.items()
        if len(documents)
    }
    for name, manifest in manifests.items():
        write_manifest(partial / name, manifest)
    for name, share in config.split.model_dump().items():
        if share and name not in manifests:
            progress.note(
                f"warning: no document fell to the {name} split: none is written; raise split.{name}"
            )
    shutil.rmtree(work)
    raw = [file for parts in files.values() for file in parts]
    return {file.url: part.raw_hash for file, part in zip(raw, collected, strict=True)}, counts


def _collect(
    config: DataConfig, files: Mapping[str, list[InputPart]], work: Path, over: Map, progress: Progress
) -> list[Collected]:
    raw = [(name, path) for name, paths in files.items() for path in paths]
    tasks = [
        CollectTask(
            name, config.sources[name], path, work / f"{number:06d}.text", config.clean, config.filter
        )
        for number, (name, path) in enumerate(raw)
    ]
    return list(progress.track("read and clean, files", over(collect, tasks), len(tasks)))


def _counts(
    collected: Sequence[Collected], everything: Documents, kept: Documents
) -> dict[str, dict[str, int]]:
    """Documents by what befell them, for each source: read, dropped by reason, kept."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in everything.source_names}
    for part in collected:
        counts[part.source_name] += part.counts
    for number, name in enumerate(everything.source_names):
        counts[name]["kept"] = int((kept.source == number).sum())
        counts[name]["kept_bytes"] = int(kept.length[kept.source == number].sum())
        counts[name]["duplicate"] = int((everything.source == number).sum()) - counts[name]["kept"]
    return {name: dict(sorted(per_source.items())) for name, per_source in counts.items()}


def _require_documents(counts: Mapping[str, Mapping[str, int]]) -> None:
    for name, per_source in counts.items():
        dropped = ", ".join(f"{what} {count}" for what, count in per_source.items() if count) or "none read"
        require(
            per_source["kept"],
            f"sources.{name}: no document is left ({dropped}); check its files, text_column and filter",
        )


def _tokenizer_model(config: DataConfig, documents: Documents, progress: Progress) -> bytes:
    if config.tokenizer.model is not None:
        return read_model(Path(config.tokenizer.model))
    progress.note(f"train tokenizer: {config.tokenizer.vocab_size:,} pieces ...")
    places = zip(documents.text.tolist(), documents.offset.tolist(), documents.length.tolist(), strict=True)
    texts = (read_text(documents.texts[text], offset, length) for text, offset, length in places)
    return train_tokenizer(texts, config.tokenizer)


def _write_split(
    config: DataConfig,
    folder: Path,
    documents: Documents,
    tokenizer: tuple[Path, TokenizerInfo],
    made: Mapping[str, Any],
    over: Map,
    progress: Progress,
) -> Manifest:
    shards: list[ShardInfo] = []
    for number in sorted(set(documents.source.tolist()), key=lambda n: documents.source_names[n]):
        folder.mkdir(exist_ok=True)
        shards += write_source(
            folder,
            documents.take(documents.source == number),
            first_shard=len(shards),
            max_tokens=config.shards.max_tokens,
            tokenizer=tokenizer,
            over=over,
            progress=progress,
        )
    dtype = str(token_dtype(tokenizer[1].vocab_size))
    return Manifest(folder.name, dtype, tokenizer[1], tuple(shards), made)


def _stat(files: Mapping[str, list[InputPart]]) -> dict[str, dict[str, int]]:
    found = [file for parts in files.values() for file in parts]
    return {file.url: {"bytes": file.bytes, "mtime_ns": int(file.modified)} for file in found}


def _require_same(
    folder: Path, record: Mapping[str, Any], config: DataConfig, inputs: Mapping[str, dict[str, int]]
) -> None:
    """Raise UserError unless the record is of this config and of files with this content."""
    mend = "choose another output, or set overwrite=true to replace it"
    old = {"pipeline_version": record["pipeline_version"], **record["config"]}
    found = output.difference(old, {"pipeline_version": PIPELINE_VERSION, **config.deciding()})
    require(found is None, f"{folder}: was prepared by another config ({found}); {mend}")
    before: Mapping[str, Mapping[str, Any]] = record["inputs"]
    changed = sorted(before.keys() ^ inputs.keys()) or [
        path for path, stat in inputs.items() if _changed(path, before[path], stat)
    ]
    require(
        not changed, f"{folder}: was prepared from other files ({', '.join(changed[:3])} differs); {mend}"
    )


def _changed(path: str, before: Mapping[str, Any], stat: Mapping[str, int]) -> bool:
    if before["bytes"] != stat["bytes"]:
        return True
    # A fresh clone has other times and the same content: only then is it worth the reading.
    return bool(before["mtime_ns"] != stat["mtime_ns"] and before["hash"] != hash_file(Path(path)))


def _manifests(folder: Path) -> dict[str, Manifest]:
    return {path.name: read_manifest(path) for path in splits_in(folder)}


def summary(prepared: Prepared) -> str:
    """A table of splits and sources: documents, tokens, bytes per token."""
    lines = [f"{'split':<12}{'source':<16}{'documents':>10}{'tokens':>14}{'bytes':>14}{'bytes/token':>13}"]
    for split in [name for name in SPLITS if name in prepared.splits]:
        manifest = prepared.splits[split]
        for source in manifest.sources:
            mine = [shard for shard in manifest.shards if shard.source == source]
            documents, tokens, size = (
                sum(shard.documents for shard in mine),
                sum(shard.tokens for shard in mine),
                sum(shard.text_bytes for shard in mine),
            )
            lines.append(
                f"{split:<12}{source:<16}{documents:>10,}{tokens:>14,}{size:>14,}{size / tokens:>13.2f}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """`CONFIG [section.key=value ...]`: prepare, print the table, give the exit code."""
    try:
        require(arguments, "usage: python -m data_tools.prepare CONFIG [section.key=value ...]")
        print(summary(prepare(load_config(arguments[0], arguments[1:]))))
    except (UserError, FailedWork) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written; run the same command again", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
