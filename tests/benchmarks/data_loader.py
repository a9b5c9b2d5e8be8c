"""The loader beside the limit and its peers: tokens a second warm and cold, the time to the first batch.

    python tests/benchmarks/data_loader.py [--dataset SPLIT] [--peers PYTHON] [--folder DIR]
                                           [--only warm cold start]

The limit is the same windows copied one by one from a memory map into a preallocated int64 batch: once, as
[rows, S + 1], and into tokens and labels apart, which is what a training batch holds. All rounds are taken in
turn in one run; a figure is their median. Read the ratios: seconds belong to the machine and the hour. Warm
figures are CPU seconds of all threads, which a busy machine stretches least; cold ones are wall seconds, each
round with the shards evicted from the page cache (posix_fadvise) and windows of its own.

SPLIT is a train split made by `megatrain prepare`, best of 200 M tokens or more; without, one of random ids
with documents as long as those of the web is made. PYTHON is that of an environment with the peers, which
would replace ours; a peer that is not in it is told to be absent:

    python3.11 -m venv peers
    peers/bin/pip install torch==2.13.0 numpy pyarrow datasets psutil lightning_utilities boto3 requests \\
        tifffile obstore Brotli matplotlib paramiko zstd xxhash python-snappy cramjam catalogue einops
    peers/bin/pip install --no-deps litdata==0.2.76 mosaicml-streaming==0.13.0 megatron-core==0.16.1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_tools.packing import pack
from megatrain.config import Config
from megatrain.data.manifest import Manifest, ShardInfo, TokenizerInfo, read_manifest, write_manifest
from megatrain.data.mixture import TokenMixture
from megatrain.data.order import SampleOrder
from megatrain.data.shard import write_shard
from megatrain.data.training import TrainingSamples, open_loader

S = 2048
EOS = 2
PEERS = ("mds", "litdata", "hf", "megatron")
PEER_PROGRAM = Path(__file__).with_name("peers") / "loaders.py"
START_SHARDS = 1000


@dataclass
class Figures:
    """What a contestant needed in each round, in microseconds a window."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dataset", type=Path, metavar="SPLIT")
    parser.add_argument("--peers", type=Path, metavar="PYTHON")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to try")
    parser.add_argument("--tokens", type=float, default=2e8, help="of the dataset that is made")
    parser.add_argument("--rows", type=int, default=32, help="of a batch on this rank")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=200, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", choices=("warm", "cold", "start"), nargs="+", default=["warm", "cold", "start"]
    )
    parser.add_argument("--json", type=Path, help="write every single figure to this file as well")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.start is not None:
        print(json.dumps(first_batch(chosen.start)))
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="loader-") as name:
        room = Path(name)
        split = chosen.dataset or make_dataset(room / "data" / "train", int(chosen.tokens), shards=10)
        tokens = sum(shard.tokens for shard in read_manifest(split).shards)
        print(f"{platform.machine()}, {os.cpu_count()} cores; {tokens:,} tokens of {split}")
        if "warm" in chosen.only:
            found["warm"] = warm(chosen, split, room)
        if "cold" in chosen.only:
            found["cold"] = cold(chosen, split)
        if "start" in chosen.only:
            found["start"] = start(chosen, room)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, default=vars, indent=1))


def make_dataset(split: Path, tokens: int, *, shards: int) -> Path:
    """Random ids in documents of the web's lengths (median 500 tokens, a long tail), from two sources."""
    split.mkdir(parents=True)
    rng, infos = np.random.default_rng(0), list[ShardInfo]()
    tokenizer = TokenizerInfo("sentencepiece", "0" * 32, 32_000, EOS, 1)
    for number in range(shards):
        lengths = np.maximum(2, rng.lognormal(6.2, 1.0, tokens // shards // 200 + 9).astype(np.int64))
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens // shards)) + 1]
        ids = rng.integers(3, 32_000, int(lengths.sum()), dtype=np.uint16)
        ids[np.cumsum(lengths) - 1] = EOS
        infos.append(
            write_shard(
                split / f"shard-{number:05d}.arrow",
                source="ab"[number % 2],
                doc_ids=[bytes(16)] * len(lengths),
                lengths=lengths,
                tokens=ids,
                tokenizer_hash=tokenizer.hash,
                text_bytes=0,
            )
        )
    write_manifest(split, Manifest("train", "uint16", tokenizer, tuple(infos)))
    return split


def config_of(split: Path, rows: int, micro_batch: int, **data: Any) -> Config:
    data = {"sources": [{"path": str(split.parent)}], "sequence_length": S, **data}
    train = {"global_batch": rows, "micro_batch": micro_batch}
    return Config.model_validate({"data": data, "train": train})


# --- warm ---


def warm(chosen: argparse.Namespace, split: Path, room: Path) -> dict[str, Figures]:
    """CPU time of each contestant, all files in the page cache."""
    pack(split, S)
    places = Windows(split)
    order = places.samples.order(seed=1)
    contestants: dict[str, Callable[[], None]] = {
        "limit: copied once [rows, S + 1]": copier(chosen, places, order, labels=False),
        "limit: copied as tokens and labels": copier(chosen, places, order, labels=True),
        "megatrain, as it trains": ours(chosen, split, prefetch=2),
        "megatrain, without its thread": ours(chosen, split),
        "megatrain, document_start: none": ours(chosen, split, document_start="none"),
        "megatrain, no document mask": ours(chosen, split, document_mask=False),
        "megatrain, packed": ours(chosen, split, packing="best_fit"),
    }
    figures = {name: Figures() for name in contestants}
    for round_ in range(chosen.rounds + 1):
        for name, run in contestants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            if round_:  # the first brings everything into the page cache
                add(figures[name], cpu, wall, chosen.batches * chosen.rows)
    figures |= peers_warm(chosen, split, room)
    report_warm(figures)
    return figures


def add(figures: Figures, cpu: float, wall: float, windows: int) -> None:
    figures.cpu.append((time.process_time() - cpu) / windows * 1e6)
    figures.wall.append((time.perf_counter() - wall) / windows * 1e6)


class Windows:
    """Where windows lie, for those who do not come by the loader: shard, first token."""

    def __init__(self, split: Path) -> None:
        config = config_of(split, 1, 1).data
        self.samples = TrainingSamples(TokenMixture.open(config, "train"), config)
        self.shards = read_manifest(split).shards
        self.paths = [split / shard.name for shard in self.shards]

    def at(self, order: SampleOrder, first: int, count: int) -> list[tuple[int, int]]:
        found = order.locate(first, count)
        places = np.empty((count, 2), np.int64)
        for which, source in enumerate(order.sources):
            here = found.source == which
            _, pieces = self.samples.locate(source, found.window[here])
            places[here] = np.stack([pieces.shard, pieces.start], axis=1)
        return [(shard, start) for shard, start in places.tolist()]


def copier(
    chosen: argparse.Namespace, windows: Windows, order: SampleOrder, *, labels: bool
) -> Callable[[], None]:
    maps = [
        np.asarray(np.memmap(path, np.uint16, "r", shard.values_offset, (shard.tokens,)))
        for path, shard in zip(windows.paths, windows.shards, strict=True)
    ]
    batches = [windows.at(order, at * chosen.rows, chosen.rows) for at in range(chosen.batches)]
    whole = np.empty((chosen.rows, S + 1), np.int64)
    apart = np.empty((2, chosen.rows, S), np.int64)

    def once() -> None:
        for batch in batches:
            for row, (shard, first) in enumerate(batch):
                whole[row] = maps[shard][first : first + S + 1]

    def twice() -> None:
        for batch in batches:
            for row, (shard, first) in enumerate(batch):
                apart[0, row] = maps[shard][first : first + S]
                apart[1, row] = maps[shard][first + 1 : first + S + 1]

    return twice if labels else once


def ours(
    chosen: argparse.Namespace, split: Path, *, prefetch: int = 0, first: int = 0, **data: Any
) -> Callable[[], None]:
    """The loader as training opens it; without prefetch it has no thread, which no config can ask for."""
    config = config_of(split, chosen.rows, chosen.micro_batch, **data)
    config = config.model_copy(update={"data": config.data.model_copy(update={"prefetch": prefetch})})
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    loader = open_loader(samples, samples.order(seed=1), config, dp_rank=0, dp_size=1)

    def run() -> None:
        for batch in range(chosen.batches):
            loader.batch(first + batch * chosen.rows)

    return run


def peers_warm(chosen: argparse.Namespace, split: Path, room: Path) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for peer, folder in made_by_peers(chosen, split, room, shards=10):
        told = peer_said(chosen, peer, "read", folder, chosen.rows, chosen.batches)
        for way, rounds in (told or {}).items():
            each = 1e6 / (chosen.rows * chosen.batches)
            cpu, wall = ([one[which] * each for one in rounds] for which in (0, 1))
            figures[f"{peer}, {way}"] = Figures(cpu, wall)
    return figures


def report_warm(figures: dict[str, Figures]) -> None:
    limits = [statistics.median(one.cpu) for name, one in figures.items() if name.startswith("limit")]
    head = "".join(f"{name:>9}" for name in ("us CPU", "Mtok/s", "of once", "of two", "us wall"))
    print(f"\n{'warm, a window of 2,048 + 1':<38}{head}")
    for name, one in figures.items():
        cpu = statistics.median(one.cpu)
        ratios = "".join(f"{limit / cpu:>9.0%}" for limit in limits)
        print(f"{name:<38}{cpu:>9.2f}{S / cpu:>9.0f}{ratios}{statistics.median(one.wall):>9.2f}")


# --- cold ---


def cold(chosen: argparse.Namespace, split: Path) -> dict[str, list[float]]:
    """Windows a second with nothing in the page cache: bare pread, one by one, and the loader."""
    windows = Windows(split)
    order = windows.samples.order(seed=1)
    count = 8192
    figures: dict[str, list[float]] = {"bare pread": [], "megatrain, without its thread": [], "megatrain": []}
    once = argparse.Namespace(**{**vars(chosen), "batches": count // chosen.rows})
    at = 0
    for _ in range(chosen.rounds):
        for name in figures:
            run = (
                pread(windows, order, at, count)
                if name == "bare pread"
                else ours(once, split, prefetch=0 if "thread" in name else 2, first=at)
            )
            at += 2 * count  # so that nothing that was read ahead is read again
            read_bytes, wall = evicted(windows.paths), time.perf_counter()
            run()
            figures[name].append(count / (time.perf_counter() - wall))
            assert disk_bytes() - read_bytes > count * 2 * S * 0.9, "the page cache was not empty"
    print(f"\n{'cold':<38}{'windows/s':>10}{'of pread':>10}   (median of pairs)")
    for name, rates in figures.items():
        pairs = [rate / bare for rate, bare in zip(rates, figures["bare pread"], strict=True)]
        print(f"{name:<38}{statistics.median(rates):>10,.0f}{statistics.median(pairs):>10.0%}")
    return figures


def pread(windows: Windows, order: SampleOrder, first: int, count: int) -> Callable[[], None]:
    places = windows.at(order, first, count)
    files = [os.open(path, os.O_RDONLY) for path in windows.paths]
    offsets = [shard.values_offset for shard in windows.shards]

    def run() -> None:
        for shard, start in places:
            os.pread(files[shard], 2 * (S + 1), offsets[shard] + 2 * start)
        for file in files:
            os.close(file)

    return run


def evicted(paths: Sequence[Path]) -> int:
    """Drop files from the page cache; gives what this process has read from disks so far."""
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    return disk_bytes()


def disk_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


# --- start ---


def start(chosen: argparse.Namespace, room: Path) -> dict[str, list[list[float]]]:
    """The first batch of 8 rows from a thousand shards, in a process of its own; imports are not counted."""
    split = make_dataset(room / "start" / "train", int(2e7), shards=START_SHARDS)
    figures: dict[str, list[list[float]]] = {"megatrain": []}
    made = list(made_by_peers(chosen, split, room / "peers", shards=START_SHARDS))
    for _ in range(chosen.rounds):
        said = run_python(Path(sys.executable), Path(__file__), "--start", split)
        figures["megatrain"].append(said)
        for peer, folder in made:
            if (told := peer_said(chosen, peer, "start", folder, 8)) is not None:
                figures.setdefault(peer, []).append(told)
    print(f"\n{f'first batch of {START_SHARDS:,} shards':<38}{'ms CPU':>8}{'ms wall':>9}{'MiB':>8}")
    for name, rounds in figures.items():
        cpu, wall, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{name:<38}{cpu * 1e3:>8.1f}{wall * 1e3:>9.1f}{memory:>8.1f}")
    return figures


def first_batch(split: Path) -> list[float]:
    memory, cpu, wall = memory_mib(), time.process_time(), time.perf_counter()
    config = config_of(split, 8, 8)
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    loader = open_loader(samples, samples.order(seed=1), config, dp_rank=0, dp_size=1)
    assert len(loader.batch(0).micro_batches[0].tokens) == 8
    spent = [time.process_time() - cpu, time.perf_counter() - wall, memory_mib() - memory]
    loader.close()
    return spent


def memory_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


# --- peers ---


def made_by_peers(
    chosen: argparse.Namespace, split: Path, room: Path, *, shards: int
) -> Iterator[tuple[str, Path]]:
    """Each peer that is there, and the same tokens in its format."""
    if chosen.peers is None:
        return
    room.mkdir(exist_ok=True)
    with (room / "tokens.bin").open("wb") as out:
        for shard in read_manifest(split).shards:
            np.fromfile(split / shard.name, np.uint16, shard.tokens, offset=shard.values_offset).tofile(out)
    for peer in PEERS:
        folder = room / peer
        if peer_said(chosen, peer, "make", room / "tokens.bin", folder, shards) is not None:
            yield peer, folder


def peer_said(chosen: argparse.Namespace, peer: str, *words: object) -> Any:
    try:
        return run_python(chosen.peers, PEER_PROGRAM, peer, *words)
    except RuntimeError as error:
        print(f"{peer}: absent or failed: {error}")
        return None


def run_python(python: Path, *words: object) -> Any:
    """What a program prints as JSON in its last line."""
    ran = subprocess.run(
        [str(python), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "" if words[0] == PEER_PROGRAM else os.pathsep.join(sys.path)},
    )
    if ran.returncode:
        raise RuntimeError((ran.stderr.strip() or "no word").splitlines()[-1])
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
