"""Sources added to a dataset that is complete: its shards, its tokenizer and the order of its documents
stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools import output
from data_tools.assemble import PARTS, added, read_base
from data_tools.beside import BESIDE, MEND, UNFINISHED, FileTask, check_file
from data_tools.config import DataConfig
from data_tools.config_files import build_steps, require_steps, require_tokenizer
from data_tools.datasets.shards import require_size
from data_tools.engines import engine
from data_tools.inputs import find_inputs, require_same_inputs
from data_tools.pipeline import PIPELINE_VERSION, make
from data_tools.progress import Progress, look_at
from data_tools.stages import Workshop
from megatrain.data.dataset import require_layout
from megatrain.data.manifest import MANIFEST, read_manifest, splits_in
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError, require

_NOT_READ = ("lineage", "dropped")
"""Folders whose files nothing that is added builds on."""


def append(config: DataConfig, record: Mapping[str, Any], progress: Progress) -> bool:
    """Add the sources of the config that the dataset lacks, and say whether there were any.

    New shards lie there before a manifest names them, and the record comes last: what was cut off is done
    again, from the tasks that are done. Raises UserError where anything else in the config has changed.
    """
    folder = output.placed(config.output)
    has = record["config"]["sources"]
    new = {name: source for name, source in config.sources.items() if name not in has}
    same = {name: source for name, source in config.sources.items() if name in has}
    found = output.difference(
        {"pipeline_version": record["pipeline_version"], **record["config"]},
        {"pipeline_version": PIPELINE_VERSION, **config.model_copy(update={"sources": same}).deciding()},
    )
    mend = "sources can be added, all else must stay; undo that, or choose another output"
    if found is not None:
        build_steps(config)  # a wrong path first
        require_tokenizer(config)
        raise UserError(f"{folder}: was prepared by another config ({found}); {mend}")
    _require_old_sources(folder, config, set(new), record)
    _require_old_files(folder, record)
    if not new:
        progress.note(f"{folder}: has all of these sources; nothing to do")
        return False
    alone = config.model_copy(update={"sources": new})
    inputs = find_inputs(alone)
    _require_whole(folder, set(has), record)
    files, base = require_steps(alone, inputs), read_base(folder, set(has))
    with engine(config.where, progress) as run:
        work = output.workshop(folder)
        made = make(Workshop(work, alone, run, progress), inputs, files, folder, base)
    output.write_record(folder, {**added(record, made), BESIDE: record.get(BESIDE, {})})
    shutil.rmtree(work)
    progress.note(f"{folder}: complete, with {', '.join(new)} added; {look_at(folder)}")
    return True


def _require_old_sources(folder: Path, config: DataConfig, new: set[str], record: Mapping[str, Any]) -> None:
    """Raise UserError where a raw file of what is there has changed, or one came to it; those that are gone
    are not needed."""
    for name in config.sources.keys() - new:
        try:
            inputs = find_inputs(config.model_copy(update={"sources": {name: config.sources[name]}}))
        except UserError:
            continue
        here = {file.url for file in inputs.files[name]}
        require_same_inputs(
            folder,
            {url: looks for url, looks in record["inputs"].items() if url in here},
            inputs,
            "what is there cannot change; undo that, or choose another output",
        )


def _require_old_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise UserError where a file that the steps or the tokenizer were made of has changed; one that is gone
    is not needed."""
    for name, found in record["files"].items():
        require(
            not Path(name).is_file() or hash_file(Path(name)) == found,
            f"{folder}: was prepared with another {name}; sources can be added, all else must stay",
        )


def _require_whole(folder: Path, sources: set[str], record: Mapping[str, Any]) -> None:
    """Raise FailedWork where something is missing or damaged that what is added builds on: shards would take
    the place of old ones, or documents be compared with what is none."""
    cut_off = (folder / UNFINISHED).exists()
    for name, looks in record.get(BESIDE, {}).items():
        path = folder / name
        if cut_off and path.name in (MANIFEST, PARTS):
            continue  # already those of the larger dataset; they have hashes of their own
        known = name.partition("/")[0] not in _NOT_READ
        fault = check_file(FileTask(path, looks["bytes"], looks["xxh3"] if known else None))
        if fault is not None:
            raise FailedWork(fault)
    for split in splits_in(folder):
        manifest = read_manifest(split)
        for number, shard in enumerate(manifest.shards):
            if shard.source in sources:
                try:
                    require_size(split / shard.name, shard)
                except FileNotFoundError:
                    raise FailedWork(f"{split / shard.name}: shard missing; {MEND}") from None
                require_layout(split / shard.name, manifest, number)
