"""The tokenizer of a preparation: the existing one that the config names, or one trained on what is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping

import numpy as np

from data_tools.collected import doc_ids
from data_tools.duplicate_stage import Found
from data_tools.remaining import Remaining
from data_tools.selection import split_of
from data_tools.stages import Workshop, key_of
from data_tools.tokenizer.make import make_tokenizer
from data_tools.tokenizer.sample import TrainingSample
from megatrain.data.manifest import TokenizerInfo
from megatrain.durable import write_durably

_INFO = "info.json"
_ROWS_AT_ONCE = 4096


def tokenizer_of(shop: Workshop, found: Found, files: Mapping[str, str]) -> tuple[str, TokenizerInfo]:
    """The name of the tokenizer's folder in the workshop, and what shards must know of it.

    files: the hashes of what the config names, by path: an existing tokenizer is known by them.
    """
    section = shop.config.tokenizer
    key = key_of(found.shared(), section.model_dump(mode="json"), shop.config.split.model_dump(), files)
    name = f"tokenizer-{key}"
    home = shop.folder / name
    if not (home / _INFO).is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        info = make_tokenizer(home / "files", section, _sample(shop, found))
        write_durably(home / _INFO, json.dumps(dataclasses.asdict(info)).encode())
    return f"{name}/files", TokenizerInfo(**json.loads((home / _INFO).read_text()))


def _sample(shop: Workshop, found: Found) -> Iterator[str]:
    """Texts of the train split for the training; where nothing is trained, nothing is read."""
    section = shop.config.tokenizer
    shop.progress.note(f"train tokenizer: {section.vocab_size:,} pieces ...")
    sample = TrainingSample(section)
    for number, part in enumerate(found.corpus["parts"]):
        remaining = Remaining(shop.folder, found.shared(), number, shop.config.duplicates)
        ids = doc_ids(remaining.keys)
        train = np.flatnonzero(remaining.kept & (split_of(remaining.keys, shop.config.split) == 0))
        for at in range(0, len(train), _ROWS_AT_ONCE):
            some = train[at : at + _ROWS_AT_ONCE].tolist()
            rows = [row for row in some if sample.wants(part["source"], ids[row])]
            for row, text in zip(rows, remaining.texts(np.array(rows, np.int64)), strict=True):
                sample.add(part["source"], ids[row], text)
    yield from sample.texts()
