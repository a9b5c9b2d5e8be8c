"""Peers of the loader, each read as its own documentation shows, or by a way of its own that is faster.

PYTHON loaders.py PEER make TOKENS FOLDER SHARDS     write windows in the peer's format
PYTHON loaders.py PEER read FOLDER ROWS BATCHES      seconds for so many shuffled batches
PYTHON loaders.py PEER start FOLDER ROWS             seconds and memory to the first batch

TOKENS is a file of uint16. Started by data_loader.py with the Python of an environment in which the peers are
installed. A peer gives rows of tokens [ROWS, S + 1] as one int64 tensor.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import resource
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

S = 2048
ROUNDS = 7


class Stub(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """MosaicML Streaming imports these for images and for tokenizing, of which nothing is used here."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in ("torchvision", "transformers"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = Stub(spec.name)
        module.__file__ = "absent"
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def module(name: str) -> Any:
    """A package of a peer, which is not there where ours are."""
    return importlib.import_module(name)


def windows_of(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The windows [n, S + 1], as views."""
    count = (len(tokens) - 1) // S
    return np.lib.stride_tricks.as_strided(
        tokens, (count, S + 1), (S * tokens.itemsize, tokens.itemsize), writeable=False
    )


def as_batch(rows: Sequence[Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def drawn(count: int, rows: int) -> Iterator[list[int]]:
    """Rows of a shuffled epoch, again and again."""
    rng = np.random.default_rng(1)
    while True:
        order = rng.permutation(count)[: count // rows * rows].reshape(-1, rows)
        yield from order.tolist()


# --- the peers: how each is written, and its batches ---


def make_mds(tokens: np.ndarray[Any, Any], folder: Path, shards: int) -> None:
    streaming = module("streaming")
    size = 2 * len(tokens) // shards
    with streaming.MDSWriter(
        out=str(folder), columns={"tokens": f"ndarray:uint16:{S + 1}"}, size_limit=size
    ) as out:
        for window in windows_of(tokens):
            out.write({"tokens": window})


def read_mds(folder: Path, rows: int, *, way: str) -> Iterator[torch.Tensor]:
    dataset = module("streaming").StreamingDataset(
        local=str(folder), shuffle=way == ITERATED, batch_size=rows
    )
    if way == BY_NUMBER:
        for chosen in drawn(len(dataset), rows):
            yield as_batch([dataset[at]["tokens"] for at in chosen])
    while True:
        held = []
        for sample in dataset:
            held.append(sample["tokens"])
            if len(held) == rows:
                yield as_batch(held)
                held = []


def _chunk(window_range: tuple[str, int, int]) -> Iterator[torch.Tensor]:
    path, first, last = window_range
    tokens = np.fromfile(path, np.uint16, count=(last - first) * S, offset=2 * first * S)
    yield torch.from_numpy(tokens.astype(np.int32))


def make_litdata(tokens: np.ndarray[Any, Any], folder: Path, shards: int) -> None:
    litdata = module("litdata")
    path = folder.parent / "tokens.bin"
    count = len(tokens) // S // shards
    litdata.optimize(
        fn=_chunk,
        inputs=[(str(path), at, at + count) for at in range(0, count * shards, count)],
        output_dir=str(folder),
        num_workers=1,
        chunk_size=max(1, count * S // (S + 1)) * (S + 1),
        item_loader=litdata.TokensLoader(),
        verbose=False,
    )


def read_litdata(folder: Path, rows: int, *, way: str) -> Iterator[torch.Tensor]:
    litdata = module("litdata")
    loader = litdata.TokensLoader(block_size=S + 1)
    dataset = litdata.StreamingDataset(str(folder), item_loader=loader, shuffle=way == ITERATED)
    if way == BY_NUMBER:
        for chosen in drawn(len(dataset), rows):
            yield torch.stack([dataset[at] for at in chosen]).long()
    while True:
        held: list[torch.Tensor] = []
        for sample in dataset:
            held.append(sample)
            if len(held) == rows:
                yield torch.stack(held).long()
                held = []


def make_hf(tokens: np.ndarray[Any, Any], folder: Path, shards: int) -> None:
    datasets, pa = module("datasets"), module("pyarrow")
    windows = np.ascontiguousarray(windows_of(tokens))
    column = pa.FixedSizeListArray.from_arrays(pa.array(windows.reshape(-1)), S + 1)
    dataset = datasets.Dataset(pa.table({"tokens": column}))
    dataset.save_to_disk(str(folder), num_shards=shards)


def read_hf(folder: Path, rows: int, *, way: str) -> Iterator[torch.Tensor]:
    dataset = module("datasets").load_from_disk(str(folder)).with_format("numpy")
    if way == BY_NUMBER:
        for chosen in drawn(len(dataset), rows):
            yield torch.from_numpy(dataset[chosen]["tokens"].astype(np.int64))
    while True:
        for batch in dataset.shuffle(seed=1).iter(batch_size=rows, drop_last_batch=True):
            yield torch.from_numpy(np.asarray(batch["tokens"]).astype(np.int64))


def make_megatron(tokens: np.ndarray[Any, Any], folder: Path, shards: int) -> None:
    folder.mkdir()
    builder = module("megatron.core.datasets.indexed_dataset").IndexedDatasetBuilder(
        str(folder / "text.bin"), dtype=np.uint16
    )
    for part in np.array_split(tokens, shards):
        builder.add_document(torch.from_numpy(part.astype(np.int32)), [len(part)])
    builder.finalize(str(folder / "text.idx"))


def read_megatron(folder: Path, rows: int, *, way: str) -> Iterator[torch.Tensor]:
    dataset = module("megatron.core.datasets.indexed_dataset").IndexedDataset(str(folder / "text"), mmap=True)
    if way == SAMPLES:
        yield from _megatron_samples(dataset, folder, rows)
    counts = (np.asarray(dataset.sequence_lengths) - 1) // S
    ends = np.cumsum(counts)
    for chosen in drawn(int(ends[-1]), rows):
        part = np.searchsorted(ends, chosen, side="right")
        first = (np.array(chosen) - ends[part] + counts[part]) * S
        places = zip(part.tolist(), first.tolist(), strict=True)
        yield as_batch([dataset.get(number, offset=at, length=S + 1) for number, at in places])


class Tokenizer:
    """What GPTDataset asks of one."""

    eod, pad, vocab_size = 2, -1, 32_000

    def __init__(self) -> None:
        self.unique_identifiers = {"name": "none"}


def _megatron_samples(dataset: Any, folder: Path, rows: int) -> Iterator[torch.Tensor]:
    """Training samples as shipped, with positions and a mask that end at each document."""
    gpt = module("megatron.core.datasets.gpt_dataset")
    split = module("megatron.core.datasets.utils").Split.train
    config = gpt.GPTDatasetConfig(
        random_seed=1,
        sequence_length=S,
        split="1",
        tokenizer=Tokenizer(),
        reset_position_ids=True,
        reset_attention_mask=False,
        eod_mask_loss=True,
        create_attention_mask=False,
        path_to_cache=str(folder / "cache"),
    )
    parts = np.arange(len(dataset.sequence_lengths), dtype=np.int32)
    samples = gpt.GPTDataset(dataset, str(folder / "text"), parts, None, split, config)
    names = ("tokens", "labels", "position_ids", "loss_mask")
    at = 0
    while True:
        chosen = [samples[(at + row) % len(samples)] for row in range(rows)]
        tokens, labels, *_ = (torch.stack([sample[name] for sample in chosen]) for name in names)
        at += rows
        yield torch.cat([tokens[:, :1], labels], dim=1)


Maker = Callable[[np.ndarray[Any, Any], Path, int], None]
Reader = Callable[..., Iterator[torch.Tensor]]
MAKERS: dict[str, Maker] = {
    "mds": make_mds,
    "litdata": make_litdata,
    "hf": make_hf,
    "megatron": make_megatron,
}
READERS: dict[str, Reader] = {
    "mds": read_mds,
    "litdata": read_litdata,
    "hf": read_hf,
    "megatron": read_megatron,
}
# Iterated over in its own shuffled order; asked for windows by number; training samples with masks.
ITERATED, BY_NUMBER, SAMPLES = "iterated", "by number", "training samples"
WAYS = {
    "mds": (ITERATED, BY_NUMBER),
    "litdata": (ITERATED, BY_NUMBER),
    "hf": (ITERATED, BY_NUMBER),
    "megatron": (SAMPLES, BY_NUMBER),
}


def memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main(arguments: Sequence[str]) -> object:
    """What is printed as JSON."""
    peer, what, *rest = arguments
    torch.set_num_threads(1)
    sys.meta_path.append(Stubs())
    if what == "make":
        folder = Path(rest[1])
        shutil.rmtree(folder, ignore_errors=True)
        MAKERS[peer](np.fromfile(rest[0], np.uint16), folder, int(rest[2]))
        return "made"
    folder, rows = Path(rest[0]), int(rest[1])
    if what == "start":
        _import(peer)
        memory, cpu, wall = memory_mib(), time.process_time(), time.perf_counter()
        assert next(READERS[peer](folder, rows, way=WAYS[peer][0])).shape == (rows, S + 1)
        return [time.process_time() - cpu, time.perf_counter() - wall, memory_mib() - memory]
    found: dict[str, list[tuple[float, float]]] = {}
    for way in WAYS[peer]:
        batches = READERS[peer](folder, rows, way=way)
        for _ in range(int(rest[2])):  # files, caches
            next(batches)
        found[way] = []
        for _ in range(ROUNDS):
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(int(rest[2])):
                batch = next(batches)
            assert batch.shape == (rows, S + 1) and batch.dtype == torch.int64
            found[way].append((time.process_time() - cpu, time.perf_counter() - wall))
    return found


def _import(peer: str) -> None:
    """What an import costs is not part of a start."""
    names = {"mds": "streaming", "litdata": "litdata", "hf": "datasets"}
    module(names.get(peer, "megatron.core.datasets.indexed_dataset"))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
