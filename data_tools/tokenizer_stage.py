"""The tokenizer of a preparation: the existing one that the config names, or one trained on what is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_tools.duplicate_stage import Found
from data_tools.remaining import Remaining
from data_tools.selection import split_of
from data_tools.stages import Workshop, key_of
from data_tools.tokenizer.make import make_tokenizer
from data_tools.tokenizer.sample import TrainingSample, beginning
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.tokenizer import read_info
from megatrain.durable import hash_file
from megatrain.records import check_seal, parse_record, read_file, write_sealed

_INFO = "info.json"


def tokenizer_of(shop: Workshop, found: Found, files: Mapping[str, str]) -> tuple[str, TokenizerInfo]:
    """The name of the tokenizer's folder in the workshop, and what shards must know of it.

    files: the hashes of what the config names, by path: an existing tokenizer is known by them.
    """
    section = shop.config.tokenizer
    key = key_of(found.shared(), section.model_dump(mode="json"), shop.config.split.model_dump(), files)
    name = f"tokenizer-{key}"
    home = shop.folder / name
    if (fault := _fault_of(home)) is not None:
        if home.exists():
            shop.progress.note(f"warning: tokenizer: {fault}; it is made again")
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        make_tokenizer(home / "files", section, _sample(shop, found))
        hashes = {path.name: hash_file(path) for path in (home / "files").iterdir()}
        write_sealed(home / _INFO, {"files": hashes})
    return f"{name}/files", read_info(home / "files")


def _fault_of(home: Path) -> str | None:
    """Why a tokenizer that a run left there, which was cut off, cannot be used."""
    try:
        record = parse_record(read_file(home / _INFO))
        check_seal(record, required=True)
        for name, said in record["files"].items():
            if hash_file(home / "files" / name) != said:
                return f"{home / 'files' / name}: changed since it was written"
    except (OSError, ValueError, LookupError, AttributeError) as error:
        return f"{home / _INFO}: missing or damaged ({error})"
    return None


def _sample(shop: Workshop, found: Found) -> Iterator[str]:
    """Texts of the train split for the training; where nothing is trained, nothing is read."""
    section, parts = shop.config.tokenizer, found.corpus["parts"]
    sample = TrainingSample(section)
    for number, part in enumerate(parts):
        remaining = _remaining(shop, found, number)
        train = np.flatnonzero(remaining.kept & (split_of(remaining.keys, shop.config.split) == 0))
        sample.offer(part["source"], number, train, remaining.keys[train], remaining.num_bytes[train])
    told = f"{sample.documents:,} documents, {sum(sample.bytes_by_source.values()):,} bytes"
    if shop.config.duplicates.paragraphs or shop.config.duplicates.substrings:
        told += " before repeated parts are cut"
    shop.progress.note(f"train tokenizer: {section.vocab_size:,} pieces on {told} ...")
    for number in range(len(parts)):
        if len(rows := sample.rows(number)):
            yield from map(beginning, _remaining(shop, found, number).texts(rows))


def _remaining(shop: Workshop, found: Found, number: int) -> Remaining:
    return Remaining(shop.folder, found.shared(), number, shop.config.duplicates)
