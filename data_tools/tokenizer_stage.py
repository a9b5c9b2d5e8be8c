"""The tokenizer of a preparation: the existing one that the config names, or one trained on what is kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.collect import texts_of
from data_tools.selection import shuffle_order, split_of
from data_tools.stages import Workshop, key_of
from data_tools.train_tokenizer import read_model, train_tokenizer
from megatrain.data.manifest import TokenizerInfo
from megatrain.data.tokenizer import save_tokenizer
from megatrain.durable import write_durably
from megatrain.errors import require

_INFO = "info.json"


def make_tokenizer(
    shop: Workshop, folders: Sequence[str], removed: str, collected_key: str
) -> tuple[str, TokenizerInfo]:
    """The name of the tokenizer's folder in the workshop, and what shards must know of it."""
    config = shop.config.tokenizer
    decides = [config.model_dump(mode="json"), shop.config.split.model_dump(), shop.config.seed]
    name = f"tokenizer-{key_of(collected_key, decides)}"
    home = shop.folder / name
    if not (home / _INFO).is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if config.model is not None:
            model = read_model(Path(config.model))
        else:
            shop.progress.note(f"train tokenizer: {config.vocab_size:,} pieces ...")
            model = train_tokenizer(_training_texts(shop, folders, removed), config)
        info = save_tokenizer(home / "files", model)
        write_durably(home / _INFO, json.dumps(dataclasses.asdict(info)).encode())
    return f"{name}/files", TokenizerInfo(**json.loads((home / _INFO).read_text()))


def _training_texts(shop: Workshop, folders: Sequence[str], removed: str) -> Iterator[str]:
    """Documents of the train split in the order of the shuffle, as many as the training reads."""
    chosen = _chosen(shop, folders, removed)
    require(len(chosen), "sources: no document fell to the train split; give more documents")
    texts: dict[tuple[int, int], str] = {}
    for number, folder in enumerate(folders):
        rows = np.sort(chosen["row"][chosen["task"] == number])
        for row, text in zip(rows.tolist(), texts_of(shop.folder / folder, rows), strict=True):
            texts[number, row] = text
    for task, row in zip(chosen["task"].tolist(), chosen["row"].tolist(), strict=True):
        yield texts.pop((task, row))


def _chosen(shop: Workshop, folders: Sequence[str], removed: str) -> Any:
    """The first documents of the shuffle that together have the bytes that the training reads.

    The table of candidates is cut after each task: it never holds much more than what is wanted.
    """
    budget = shop.config.tokenizer.training_bytes
    gone = np.load(shop.folder / removed)["row"]
    kind = np.dtype([("order", "<u8"), ("key", "<u8", 2), ("task", "<i8"), ("row", "<i8"), ("bytes", "<i8")])
    table = np.zeros(0, kind)
    first = 0
    for number, folder in enumerate(folders):
        keys = np.load(shop.folder / folder / "keys.npy")
        mine = np.zeros(len(keys), kind)
        mine["order"], mine["key"] = shuffle_order(keys, shop.config.seed), keys
        mine["task"], mine["row"] = number, np.arange(len(keys))
        mine["bytes"] = np.load(shop.folder / folder / "lengths.npy")
        wanted = split_of(keys, shop.config.split) == 0
        low, high = np.searchsorted(gone, [first, first + len(keys)])
        wanted[gone[low:high] - first] = False
        first += len(keys)
        table = np.concatenate([table, mine[wanted]])
        table = table[np.lexsort((table["key"][:, 0], table["key"][:, 1], table["order"]))]
        table = table[np.cumsum(table["bytes"]) - table["bytes"] < budget]
    return table
