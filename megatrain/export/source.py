"""What a user means by a folder: a run (its newest whole checkpoint), a checkpoint, an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from megatrain.checkpoint.manifest import MANIFEST
from megatrain.checkpoint.place import Place, place_of_run
from megatrain.checkpoint.read import Checkpoint, newest_whole
from megatrain.config import Config, load_config
from megatrain.data.dataset import TokenDataset
from megatrain.data.documents import documents_in, starts_documents
from megatrain.data.mixture import tokenizer_folder_of
from megatrain.data.tokenizer import Tokenizer
from megatrain.errors import FailedWork, UserError, require
from megatrain.export.card import RunFacts
from megatrain.export.folder import origin
from megatrain.export.load import read_json, require_belongs
from megatrain.state import RunFolder


@dataclass(frozen=True)
class Source:
    """Where weights and their tokenizer lie."""

    kind: Literal["checkpoint", "export"]
    folder: str
    """A path, or the URL of a checkpoint on object storage."""
    tokenizer_folder: Path
    config: Config | None
    """The run's; None for an export, or for a checkpoint that was moved out of its run."""
    run: RunFolder | None
    """None where `config` is."""
    damaged: tuple[str, ...] = ()
    """Newer checkpoints of the run that were passed over: "step-00000200: what"."""

    @property
    def data_fingerprint(self) -> str | None:
        """Of the data that it was trained on; None for an export that megatrain did not make."""
        if self.kind == "checkpoint":
            return Checkpoint(self.folder).manifest.state.data_fingerprint
        found = origin(Path(self.folder)).get("data_fingerprint")
        return found if isinstance(found, str) else None

    @property
    def trained_length(self) -> int | None:
        """Tokens of a training window; None where nothing says so."""
        if self.kind == "checkpoint":
            return self.config.data.sequence_length if self.config is not None else None
        found = read_json(Path(self.folder) / "config.json").get("max_position_embeddings")
        return found if isinstance(found, int) else None

    @property
    def start_id(self) -> int | None:
        """The token before the first one of a document; None where none was trained."""
        documents = documents_in(self.data_fingerprint or "")
        if documents is None and self.kind == "export":
            found = read_json(Path(self.folder) / "config.json").get("bos_token_id")
            return found if isinstance(found, int) else None
        return Tokenizer.load(self.tokenizer_folder).eos_id if starts_documents(documents) else None

    @property
    def facts(self) -> RunFacts:
        """What an export tells of the run. Raises UserError where the run's config is not beside it."""
        require(
            self.config is not None,
            f"{self.folder}: the run's config.yaml is not beside it; put it back in RUN/checkpoints",
        )
        assert self.config is not None and self.run is not None
        text = self.run.config.read_text(encoding="utf-8")
        return RunFacts(self.config.run.name, self.config.data.sequence_length, text)


def find_source(where: Path, tokenizer_folder: Path | None = None) -> Source:
    """Look at a run folder, a checkpoint folder, or an export.

    Raises UserError where it is none of them or its tokenizer is not found or is another one; FailedWork
    where a run has checkpoints but none is whole, or the checkpoint that is named is damaged.
    """
    require(where.is_dir(), f"{where}: no such folder; name a run, a checkpoint or an export")
    if (where / "config.json").is_file():
        return Source("export", str(where), tokenizer_folder or where, None, None)
    if (where / MANIFEST).is_file():
        folder = where.resolve()
        if what := _damage(folder):
            raise FailedWork(f"{where}: damaged: {what}; name its run, for the newest one that is whole")
        return _of_checkpoint(str(folder), RunFolder(folder.parent.parent), tokenizer_folder, ())
    run = RunFolder(where.resolve())
    place = checkpoints_of(run)
    newest, damaged = newest_whole(place)
    if newest is not None:
        return _of_checkpoint(str(newest), run, tokenizer_folder, tuple(damaged))
    if damaged:
        raise FailedWork(f"{place}: no checkpoint is whole ({' | '.join(damaged)})")
    raise UserError(
        f"{where}: neither an export (config.json), nor a checkpoint ({MANIFEST}), nor a run with a "
        "committed checkpoint (checkpoints/step-*)"
    )


def checkpoints_of(run: RunFolder) -> Place:
    """Where the checkpoints of a run lie, which its stored config says."""
    config = load_config(run.config) if run.config.is_file() else None
    return place_of_run(run, config.checkpoint.folder if config is not None else None)


def sample_texts(config: Config, tokenizer: Tokenizer, *, per_source: int = 4) -> list[str]:
    """Real text of the run's data, for checks of an export; none where the data are not there any more."""
    texts = []
    for path in dict.fromkeys(source.path for source in config.data.sources):
        splits = [Path(path) / name for name in ("validation", "train")]  # none where it is a URL
        for split in [split for split in splits if split.is_dir()][:1]:
            dataset = TokenDataset.open(split)
            if dataset.tokenizer_hash == tokenizer.hash:
                texts += _texts_of(dataset, tokenizer, config.data.sequence_length, per_source)
    return texts


def _texts_of(dataset: TokenDataset, tokenizer: Tokenizer, length: int, per_source: int) -> list[str]:
    """Evenly spaced windows of each source, decoded."""
    texts = []
    for source in dataset.sources:
        windows = dataset.windows(source, length)
        chosen = np.unique(np.linspace(0, windows - 1, min(windows, per_source)).astype(np.int64))
        ids = np.empty((len(chosen), length + 1), np.int64)
        dataset.read(source, chosen, length, ids)
        texts += [tokenizer.decode(row) for row in ids]
    return texts


def _of_checkpoint(
    folder: str, run: RunFolder, tokenizer_folder: Path | None, damaged: tuple[str, ...]
) -> Source:
    config = load_config(run.config) if run.config.is_file() else None
    home = tokenizer_folder or _tokenizer_folder(folder, config)
    require_belongs(Tokenizer.load(home), home, Checkpoint(folder))
    return Source("checkpoint", folder, home, config, run if config is not None else None, damaged)


def _tokenizer_folder(folder: str, config: Config | None) -> Path:
    """Where the run's config says that its tokenizer lies; relative paths count from the current folder."""
    require(config is not None, f"{folder}: no config.yaml says where its tokenizer is; name its folder")
    assert config is not None
    paths = [config.tokenizer.folder] if config.tokenizer.folder else [s.path for s in config.data.sources]
    require(paths, f"{folder}: its config names no tokenizer.folder and no data.sources; name the folder")
    return tokenizer_folder_of(paths[0], config.data)


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint; empty if nothing is."""
    try:
        return "; ".join(Checkpoint(folder).damaged()[:3])
    except FailedWork as error:
        return str(error)
