"""Sources added to a dataset that is complete: its shards, its tokenizer and the order of its documents
stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_tools import output
from data_tools.assemble import added, read_base
from data_tools.beside import BESIDE
from data_tools.config import DataConfig
from data_tools.config_files import require_steps
from data_tools.engines import engine
from data_tools.inputs import find_inputs, require_same_inputs
from data_tools.pipeline import PIPELINE_VERSION, make
from data_tools.progress import Progress
from data_tools.stages import Workshop
from megatrain.errors import UserError, require


def append(config: DataConfig, record: Mapping[str, Any], progress: Progress) -> bool:
    """Add the sources of the config that the dataset lacks, and say whether there were any.

    New shards lie there before a manifest names them, and the record comes last: what was cut off is done
    again, from the tasks that are done. Raises UserError where anything else in the config has changed.
    """
    folder = Path(config.output)
    has = record["config"]["sources"]
    new = {name: source for name, source in config.sources.items() if name not in has}
    same = {name: source for name, source in config.sources.items() if name in has}
    found = output.difference(
        {"pipeline_version": record["pipeline_version"], **record["config"]},
        {"pipeline_version": PIPELINE_VERSION, **config.model_copy(update={"sources": same}).deciding()},
    )
    mend = "sources can be added, all else must stay; undo that, or choose another output"
    require(found is None, f"{folder}: was prepared by another config ({found}); {mend}")
    _require_old_sources(folder, config, set(new), record)
    if not new:
        progress.note(f"{folder}: has all of these sources; nothing to do")
        return False
    alone = config.model_copy(update={"sources": new})
    inputs = find_inputs(alone)
    files, base = require_steps(alone, inputs), read_base(folder, set(has))
    with engine(config.where, progress) as run:
        work = output.workshop(folder)
        made = make(Workshop(work, alone, run, progress), inputs, files, folder, base)
    output.write_record(folder, {**added(record, made), BESIDE: record.get(BESIDE, {})})
    shutil.rmtree(work)
    progress.note(f"{folder}: complete, with {', '.join(new)} added")
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
