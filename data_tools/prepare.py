"""Raw text to token shards: a preparation, made once, and continued where it was cut off."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import output
from data_tools.append import append
from data_tools.assemble import Base
from data_tools.beside import UNFINISHED
from data_tools.config import DataConfig, load_config
from data_tools.config_files import require_steps, require_tokenizer
from data_tools.engines import engine
from data_tools.inputs import Inputs, find_inputs, require_same_inputs
from data_tools.pipeline import PIPELINE_VERSION, make
from data_tools.progress import Progress, look_at
from data_tools.selection import SPLITS
from data_tools.stages import Workshop
from data_tools.verify import faults
from megatrain.data.manifest import Manifest, read_manifest, splits_in
from megatrain.errors import FailedWork, UserError, require
from megatrain.output import guarded, require_utf8, say
from megatrain.settings import expanded


@dataclass(frozen=True)
class Prepared:
    """A complete output: its folder, its splits' manifests by name, and whether this call made it."""

    folder: Path
    splits: Mapping[str, Manifest]
    made_now: bool


def prepare(config: DataConfig, progress: Progress | None = None) -> Prepared:
    """Make the dataset of a config, or find that it is made.

    Nothing appears at `config.output` before all of it is complete, so it may be killed at any moment;
    called again, it goes on from the tasks that are done. The result depends on the config and the files
    alone. Raises UserError where the input is missing or empty, or the output was made by another config or
    from other files and `overwrite` is not set.
    """
    progress = progress or Progress()
    folder = output.placed(config.output)
    with output.locked(folder):
        record = output.read_record(folder)
        if record is not None and config.append and not config.overwrite:
            made_now = append(config, record, progress)
            return Prepared(folder, _manifests(folder), made_now)
        inputs = find_inputs(config)
        if record is not None and not config.overwrite:
            require(
                not (folder / UNFINISHED).exists(),
                f"{folder}: sources were being added when that was cut off; go on with append=true",
            )
            _require_same(folder, record, config, inputs)
            _require_whole(folder)
            progress.note(f"{folder}: already prepared from this config and these files; nothing to do")
            return Prepared(folder, _manifests(folder), made_now=False)
        files = require_steps(config, inputs) | require_tokenizer(config)
        with engine(config.where, progress) as run:
            work, partial = output.workshop(folder), output.begin(folder)
            made = make(Workshop(work, config, run, progress), inputs, files, partial, Base())
        output.commit(partial, folder, made)
        shutil.rmtree(work)
    progress.note(f"{folder}: complete; {look_at(folder)}")
    return Prepared(folder, _manifests(folder), made_now=True)


def _require_same(folder: Path, record: Mapping[str, Any], config: DataConfig, inputs: Inputs) -> None:
    """Raise UserError unless the record is of this config and of files with this content."""
    mend = "choose another output, or set overwrite=true to replace it"
    files = require_steps(config, inputs) | require_tokenizer(config)  # a wrong path first
    old = {"pipeline_version": record["pipeline_version"], **record["config"]}
    now = {"pipeline_version": PIPELINE_VERSION, **config.deciding()}
    new = sorted(config.sources.keys() - old["sources"].keys())
    had = {**now, "sources": {n: s for n, s in now["sources"].items() if n not in new}}
    if new and output.difference(old, had) is None:
        mend = f"append=true adds {', '.join(new)}; or {mend}"
    found = output.difference(old, now)
    require(found is None, f"{folder}: was prepared by another config ({found}); {mend}")
    changed = output.difference(record["files"], files)
    require(changed is None, f"{folder}: was prepared with another {changed}; {mend}")
    require_same_inputs(folder, record["inputs"], inputs, mend)


def _require_whole(folder: Path) -> None:
    """Raise FailedWork where something is missing or cut short."""
    fault = next(iter(faults(folder, quick=True, progress=Progress(io.StringIO()))), None)
    if fault is not None:
        raise FailedWork(f"{fault}; overwrite=true makes the whole again")


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
        config_path, *overrides = arguments
        try:
            config_path = expanded(config_path)
        except ValueError as error:
            raise UserError(str(error)) from None
        print(summary(prepare(load_config(config_path, overrides))))
    except (UserError, FailedWork) as error:
        say(f"megatrain: {error}")
        return error.exit_code
    except (KeyboardInterrupt, Exception) as error:
        # An extension module that is interrupted while it is imported makes another error of it.
        if KeyboardInterrupt not in (type(error), type(error.__cause__)):
            raise
        say("megatrain: interrupted; run the same command again to go on")
        return 130
    return 0


if __name__ == "__main__":
    require_utf8(os.environ)
    with guarded(out=True):
        code = main(sys.argv[1:])
    sys.exit(code)
