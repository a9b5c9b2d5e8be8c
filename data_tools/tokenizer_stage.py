"""The tokenizer of a preparation: the existing one that the config names, or one trained on what is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.duplicate_stage import Found
from data_tools.remaining import Remaining
from data_tools.selection import shuffle_order, split_of
from data_tools.stages import Workshop, key_of
from data_tools.train_tokenizer import read_model, train_tokenizer
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.tokenizer import save_tokenizer
from megatrain.durable import write_durably
from megatrain.errors import require

_INFO = "info.json"


def make_tokenizer(shop: Workshop, found: Found) -> tuple[str, TokenizerInfo]:
    """The name of the tokenizer's folder in the workshop, and what shards must know of it."""
    config = shop.config.tokenizer
    decides = [config.model_dump(mode="json"), shop.config.split.model_dump(), shop.config.seed]
    name = f"tokenizer-{key_of(found.shared(), decides)}"
    home = shop.folder / name
    if not (home / _INFO).is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if config.model is not None:
            model = read_model(Path(config.model))
        else:
            shop.progress.note(f"train tokenizer: {config.vocab_size:,} pieces ...")
            model = train_tokenizer(_training_texts(shop, found), config)
        info = save_tokenizer(home / "files", model)
        write_durably(home / _INFO, json.dumps(dataclasses.asdict(info)).encode())
    return f"{name}/files", TokenizerInfo(**json.loads((home / _INFO).read_text()))


def _training_texts(shop: Workshop, found: Found) -> Iterator[str]:
    """Documents of the train split in the order of the shuffle, as many as the training reads."""
    chosen = _chosen(shop, found)
    require(len(chosen), "sources: no document fell to the train split; give more documents")
    texts: dict[tuple[int, int], str] = {}
    for number in np.unique(chosen["task"]).tolist():
        part = Remaining(shop.folder, found.shared(), number, shop.config.duplicates)
        rows = np.sort(chosen["row"][chosen["task"] == number])
        for row, text in zip(rows.tolist(), part.texts(rows), strict=True):
            texts[number, row] = text
    for task, row in zip(chosen["task"].tolist(), chosen["row"].tolist(), strict=True):
        yield texts.pop((task, row))


def _chosen(shop: Workshop, found: Found) -> Any:
    """The first documents of the shuffle that together have the bytes that the training reads.

    The table of candidates is cut after each part: it never holds much more than what is wanted.
    """
    budget = shop.config.tokenizer.training_bytes
    kind = np.dtype([("order", "<u8"), ("key", "<u8", 2), ("task", "<i8"), ("row", "<i8"), ("bytes", "<i8")])
    table = np.zeros(0, kind)
    for number in range(len(found.corpus["parts"])):
        part = Remaining(shop.folder, found.shared(), number, shop.config.duplicates)
        mine = np.zeros(len(part.keys), kind)
        mine["order"], mine["key"] = shuffle_order(part.keys, shop.config.seed), part.keys
        mine["task"], mine["row"] = number, np.arange(len(part.keys))
        mine["bytes"] = np.load(part.folder / "lengths.npy")
        table = np.concatenate([table, mine[part.kept & (split_of(part.keys, shop.config.split) == 0)]])
        table = table[np.lexsort((table["key"][:, 0], table["key"][:, 1], table["order"]))]
        table = table[np.cumsum(table["bytes"]) - table["bytes"] < budget]
    return table
