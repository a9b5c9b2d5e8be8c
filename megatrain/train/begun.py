"""What a run takes from its beginning where its config does not say."""

from __future__ import annotations

from pathlib import Path

from megatrain.checkpoint.place import place_of_run, require_reachable
from megatrain.checkpoint.read import Checkpoint, newest_first
from megatrain.config import Config, load_config
from megatrain.data.documents import Start, document_start
from megatrain.errors import FailedWork, UserError
from megatrain.state import RunFolder


def settled(config: Config) -> Config:
    """Return the config with `data.document_start` decided.

    Where it is not set, a run that exists keeps the rule that it was begun with, also by a version that did
    not know the key; a new run has `eos`. Reads the run's folder and its newest checkpoint.
    """
    return config if config.data.document_start is not None else with_start(config, _start(config))


def with_start(config: Config, start: Start) -> Config:
    """Return the config with this `data.document_start`."""
    data = config.data.model_copy(update={"document_start": start})
    return config.model_copy(update={"data": data})


def _start(config: Config) -> Start:
    folder = RunFolder(Path(config.run.folder))
    place = place_of_run(folder, config.checkpoint.folder, config.checkpoint.staging)
    require_reachable(place)
    for name in newest_first(place):
        try:
            state = Checkpoint(name, place).manifest.state
        except FailedWork:
            continue  # what is damaged is reported where it is used
        return document_start(config.data, state.data_fingerprint)
    if folder.config.is_file():  # begun, and nothing saved yet, or not where this host could see it
        try:
            stored = load_config(folder.config).data
        except UserError:
            return "eos"
        older = "document_start" not in stored.model_fields_set  # than the key
        return stored.document_start or ("none" if older else "eos")
    return "eos"
