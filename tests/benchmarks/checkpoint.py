"""What a checkpoint costs beside DeepSpeed's own: the stall, the commit, the room, the load, the steps
meanwhile.

    python tests/benchmarks/checkpoint.py [--ranks 2] [--zero 1|2|3] [--dtype fp32|bf16] [--folder DIR]

Both save the state of the same training, 42 M parameters, and load it, in turn in one run; a figure is the
median of the rounds, and of a collective the slowest rank's time counts. Read the ratios: seconds belong to
the machine, its disk and the hour. Warm: the files are in the page cache; cold: they were dropped from it
(posix_fadvise), which the bytes that came from the disk show. All that is written lies below `--folder` and
is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from megatrain.checkpoint.commit import Facts, Identity
from megatrain.checkpoint.fragments import EXP_AVG, EXP_AVG_SQ, master_partitions
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.retention import Retention
from megatrain.checkpoint.store import Store
from megatrain.checkpoint.tier import MAIN, Tier
from megatrain.config import Config, derive, parse_config
from megatrain.data.batch import RankBatch, make_batch
from megatrain.durable import sync_folder
from megatrain.model.flops import count_parameters
from megatrain.parallel.collectives import gather_objects
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.resilience.spikes import judge_after
from megatrain.state import RunState
from megatrain.train.engine import Engine, build_engine
from megatrain.train.loop import advance
from megatrain.train.ranks import leave, start_rank
from megatrain.train.step import train_step

MODEL = """
model: {vocab_size: 16000, dim: 512, layers: 8, heads: 8, kv_heads: 8, head_dim: 64, ffn_dim: 1408}
data: {sequence_length: 64, document_mask: false}
train: {micro_batch: 1, deterministic: false}
"""
LEARNING_RATE = 1e-4
WARM_UP = 3
QUIET_STEPS = 6
SETTLE_S = 0.5
OURS, THEIRS = "megatrain", "deepspeed"
Figures = dict[str, list[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--zero", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to try")
    parser.add_argument("--only", choices=PHASES, nargs="+", default=list(PHASES))
    parser.add_argument("--json", type=Path, help="write every single figure to this file as well")
    arguments = parser.parse_args()

    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "DS_ACCELERATOR": "cpu"}
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="checkpoint-benchmark-", dir=arguments.folder) as folder:
        for phase in arguments.only:
            if PHASES[phase][1] == arguments.ranks:
                continue  # the same layout, and the same steps
            ranks = PHASES[phase][1] or arguments.ranks
            config = parse_config(
                MODEL,
                [
                    f"train.global_batch={ranks}",
                    f"train.threads={arguments.threads}",
                    f"parallel.zero={arguments.zero}",
                    f"precision.dtype={arguments.dtype}",
                ],
            )
            figures |= _spawn(phase, ranks, config, arguments.rounds, Path(folder))
    size = count_parameters(config.model).total / 1e6
    print(
        f"{size:.1f} M parameters, {arguments.dtype}, ZeRO {arguments.zero}, {arguments.ranks} ranks with "
        f"{arguments.threads} threads, {arguments.rounds} rounds; {_cpu()}; load {os.getloadavg()[1]:.1f}; "
        f"{_versions()}\n\n{_table(figures)}"
    )
    if arguments.json:
        run = {key: value for key, value in vars(arguments).items() if key not in ("json", "folder")}
        arguments.json.write_text(json.dumps({**run, "cpu": _cpu(), "figures": figures}, indent=1))


def _spawn(phase: str, ranks: int, config: Config, rounds: int, folder: Path) -> Figures:
    """A phase in processes of its own, for DeepSpeed wants a pristine engine to load into."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    torch.multiprocessing.spawn(  # type: ignore[attr-defined,no-untyped-call]
        _rank, (ranks, port, phase, config, rounds, folder), nprocs=ranks
    )
    figures: Figures = json.loads((folder / f"{phase}.json").read_text())
    return figures


def _rank(rank: int, ranks: int, port: int, phase: str, config: Config, rounds: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    context = start_rank(config)
    figures = PHASES[phase][0](config, context, rounds, folder)
    if rank == 0:
        (folder / f"{phase}.json").write_text(json.dumps({f"{phase}/{k}": v for k, v in figures.items()}))
    leave()


# --- the phases


def saves(config: Config, context: ParallelContext, rounds: int, folder: Path) -> Figures:
    """Saves while nothing else runs; the last of each contestant stays, both of the same state."""
    training = Training(config, context)
    store = store_in(folder, context)
    seconds: Figures = {}
    note(seconds, "reserve", timed(lambda: store.reserve(training.engine.held()), context))
    for turn in range(rounds + 1):
        training.step()
        for contestant in in_turn(turn):
            settle(context)
            if contestant == OURS:
                note(seconds, "megatrain stall", timed(lambda: training.save(store), context))
                (saved,) = store.wait()
                assert saved.error is None, saved
                note(seconds, "megatrain commit", most(saved.seconds, context))
                note(seconds, "megatrain writer", most(store.writer_s[-1], context))
            else:
                save_theirs(training, folder / THEIRS, turn, seconds)
    seconds["megatrain bytes"] = [bytes_on_disk(folder / OURS)]
    seconds["deepspeed bytes"] = [bytes_on_disk(folder / THEIRS)]
    return seconds


def steps(config: Config, context: ParallelContext, rounds: int, folder: Path) -> Figures:
    """Steps while a checkpoint is written, and quiet ones after it, in turn."""
    training = Training(config, context)
    store = store_in(folder / f"steps-{context.world.size}", context)
    store.reserve(training.engine.held())
    seconds: Figures = {"busy": [], "quiet": []}
    for _ in range(2 * rounds):
        stall_s = timed(lambda: training.save(store), context)
        busy, saving = [], True
        while saving:
            step_s, saving = training.step(saving=store.busy)
            busy.append(most(step_s, context))
        if len(busy) > 1:
            busy.pop()  # nobody wrote when it began
        (saved,) = store.wait()
        assert saved.error is None, saved
        quiet = [most(training.step()[0], context) for _ in range(QUIET_STEPS)]
        seconds["busy"].append(busy)
        seconds["quiet"].append(quiet)
        note(seconds, "lost", stall_s + sum(busy) - len(busy) * statistics.median(quiet))
        note(seconds, "stall", stall_s)
        note(seconds, "commit", most(saved.seconds, context))
        note(seconds, "writer", most(store.writer_s[-1], context))
    return seconds


def loads(config: Config, context: ParallelContext, rounds: int, folder: Path) -> Figures:
    """On the layout that was saved; every contestant has an engine of its own, and both end alike."""
    ours, theirs = (open_engine(config, context) for _ in range(2))
    seconds: Figures = {}
    for turn in range(rounds):
        for state in ("warm", "cold"):
            for contestant in in_turn(turn):
                if contestant == OURS:
                    load_ours(ours, context, folder, state, seconds)
                else:
                    load_theirs(theirs, context, folder, state, seconds)
    assert_alike(ours, theirs)
    return seconds


def layout(config: Config, context: ParallelContext, rounds: int, folder: Path) -> Figures:
    """On another number of ranks than those that saved."""
    ours, theirs = (open_engine(config, context) for _ in range(2))
    theirs.deepspeed._config.load_universal_checkpoint = True
    seconds: Figures = {}
    (saved_to,) = (path for path in (folder / THEIRS).iterdir() if path.is_dir())
    converted = folder / "universal"
    for turn in range(min(rounds, 3)):
        settle(context)
        note(seconds, "import", most(run_module("deepspeed.checkpoint.ds_to_universal", "--help"), context))
        shutil.rmtree(converted, ignore_errors=True)
        arguments = ["--input_folder", str(saved_to), "--output_folder", str(converted / "step")]
        note(seconds, "conversion", run_module("deepspeed.checkpoint.ds_to_universal", *arguments))
        for contestant in in_turn(turn):
            if contestant == OURS:
                load_ours(ours, context, folder, "warm", seconds)
            else:
                load_theirs(theirs, context, folder, "warm", seconds, "universal")
    seconds["universal bytes"] = [bytes_on_disk(converted)]
    assert_alike(ours, theirs)
    return seconds


# Ranks: None where the user chooses.
PHASES: dict[str, tuple[Callable[[Config, ParallelContext, int, Path], Figures], int | None]] = {
    "saves": (saves, None),
    "loads": (loads, None),
    "layout": (layout, 1),
    "steps": (steps, None),
    "free-core": (steps, 1),
}


# --- the contestants


class TimedStore(Store):
    """Knows the processor seconds of its writer threads."""

    writer_s: list[float]

    def _work(self, *arguments: Any) -> None:
        started = time.thread_time()
        super()._work(*arguments)
        self.writer_s.append(time.thread_time() - started)


class Training:
    """A model that has trained for some steps on one random batch."""

    def __init__(self, config: Config, context: ParallelContext) -> None:
        self.config, self.context = config, context
        self.engine = open_engine(config, context)
        setattr(self.engine.model, "universal_checkpoint_info", {})  # noqa: B010 -  ds_to_universal wants to find it
        random = np.random.default_rng(context.world.rank)
        windows = random.integers(2, config.model.vocab_size, (1, config.data.sequence_length + 1))
        micro = make_batch(windows, np.array([windows.shape[1]]), eos_id=1, documents="concat")
        self.batch = RankBatch((micro,), np.zeros(1, dtype=np.int64), micro.valid_tokens, 0.0)
        self.state = RunState(seed=0, data_fingerprint="data")
        for _ in range(WARM_UP):
            self.step()

    def step(self, *, saving: bool = False) -> tuple[float, bool]:
        """Its seconds, and whether a rank was saving when it began."""
        started = time.perf_counter()
        result = train_step(
            self.engine,
            self.batch,
            LEARNING_RATE,
            Wish(),
            samples=self.config.train.global_batch,
            judge=judge_after(self.state.window, self.config.resilience.spikes),
            saving=saving,
        )
        seconds = time.perf_counter() - started
        self.state = advance(self.state, result, self.config.resilience.spikes.window)
        return seconds, result.saving

    def save(self, store: Store) -> None:
        model = self.config.model.model_dump(mode="json")
        identity = Identity(model, "tokenizer", self.config.precision.model_dump(mode="json"), {"tensor": 1})
        store.save(self.engine.held(), Facts(self.state, identity))


def open_engine(config: Config, context: ParallelContext) -> Engine:
    return build_engine(config, derive(config, context.world.size), context)


def store_in(folder: Path, context: ParallelContext) -> TimedStore:
    store = TimedStore([Tier(MAIN, LocalPlace(folder / OURS), Retention(keep=1))], context)
    store.writer_s = []
    return store


def fsync_all(folder: Path, context: ParallelContext) -> None:
    """What DeepSpeed leaves out: each rank a share of the files, then the folders."""
    for path in sorted(folder.iterdir())[context.world.rank :: context.world.size]:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if context.world.rank == 0:
        for path in (folder, folder.parent, folder.parent.parent):
            sync_folder(path)


def save_theirs(training: Training, folder: Path, turn: int, seconds: Figures) -> None:
    """The one before is removed afterwards."""
    context, tag = training.context, f"step-{turn}"
    save_s = timed(lambda: training.engine.deepspeed.save_checkpoint(str(folder), tag=tag), context)
    note(seconds, "deepspeed stall", save_s)
    note(seconds, "deepspeed commit", save_s + timed(lambda: fsync_all(folder / tag, context), context))
    if context.world.rank == 0 and turn:
        shutil.rmtree(folder / f"step-{turn - 1}")


def load_ours(engine: Engine, context: ParallelContext, folder: Path, cache: str, seconds: Figures) -> None:
    store = store_in(folder, context)

    def whole() -> None:
        started = time.perf_counter()
        found = store.find()
        assert found.name is not None
        find_s = time.perf_counter() - started
        engine.load(store.open(found, engine.held()))
        note(seconds, f"megatrain {cache}, find", find_s)

    with cached(folder / OURS, cache, context, seconds, OURS):
        note(seconds, f"megatrain {cache}", timed(whole, context))


def load_theirs(
    engine: Engine, context: ParallelContext, folder: Path, cache: str, seconds: Figures, name: str = THEIRS
) -> None:
    def whole() -> None:
        path, _ = engine.deepspeed.load_checkpoint(str(folder / name))
        assert path is not None

    with cached(folder / name, cache, context, seconds, THEIRS):
        note(seconds, f"deepspeed {cache}", timed(whole, context))


def assert_alike(ours: Engine, theirs: Engine) -> None:
    """Both have loaded the same numbers."""
    pairs = zip(*(partitions(engine.deepspeed.optimizer) for engine in (ours, theirs)), strict=True)
    for mine, other in pairs:
        assert torch.equal(mine, other), (mine, other)


def partitions(optimizer: Any) -> list[torch.Tensor]:
    """The flat tensors that hold a rank's state."""
    found = []
    for flat in master_partitions(optimizer):
        entry = optimizer.optimizer.state[flat]
        found += [flat, entry[EXP_AVG], entry[EXP_AVG_SQ]]
    return found


# --- measuring


def timed(work: Callable[[], object], context: ParallelContext) -> float:
    """Collective. Seconds of the slowest rank; all begin together."""
    gc.collect()
    dist.barrier()
    started = time.perf_counter()
    work()
    return most(time.perf_counter() - started, context)


def most(value: float, context: ParallelContext) -> float:
    """Collective."""
    return float(max(gather_objects(value, context.world)))


def note(figures: Figures, name: str, value: float) -> None:
    figures.setdefault(name, []).append(value)


def in_turn(turn: int) -> Sequence[str]:
    return (OURS, THEIRS) if turn % 2 == 0 else (THEIRS, OURS)


def settle(context: ParallelContext) -> None:
    """Collective. What was written or deleted before is out of the way."""
    dist.barrier()
    if context.world.rank == 0:
        os.sync()
        time.sleep(SETTLE_S)
    dist.barrier()


@contextlib.contextmanager
def cached(
    folder: Path, state: str, context: ParallelContext, figures: Figures, contestant: str
) -> Iterator[None]:
    """Collective. The files are in the page cache, or not; and what came from the disk all the same."""
    dist.barrier()
    if context.world.rank == 0:
        for path in folder.rglob("*"):
            if path.is_file():
                with open(path, "rb", buffering=0) as file:
                    if state == "cold":
                        os.fsync(file.fileno())
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    else:
                        while file.read(1 << 23):
                            pass
    dist.barrier()
    before = bytes_from_disk()
    yield
    read = sum(gather_objects(bytes_from_disk() - before, context.world))
    note(figures, f"{contestant} {state}, bytes from disk", read)


def bytes_from_disk() -> int:
    """That this process has waited for."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def run_module(*arguments: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return time.perf_counter() - started


# --- the table


def _table(figures: Figures) -> str:
    lines = ["| what | megatrain | DeepSpeed | ratio |", "|---|---:|---:|---:|"]

    def median(name: str) -> float:
        return float(statistics.median(figures[name]))

    def row(what: str, ours: float, theirs: float, *, unit: Literal["ms", "MB"] = "ms") -> None:
        scale = {"ms": 1e3, "MB": 1e-6}[unit]
        ratio = f"{ours / theirs:.2f}" if ours * 2 > theirs else f"1 / {theirs / ours:.1f}"
        lines.append(f"| {what} | {scale * ours:.0f} {unit} | {scale * theirs:.0f} {unit} | {ratio} |")

    if "saves/reserve" in figures:
        stalls = {who: figures[f"saves/{who} stall"] for who in (OURS, THEIRS)}
        later = {who: stalls[who][1:] for who in stalls}
        row("stall, median", *(statistics.median(times) for times in later.values()))
        row("stall, worst", *(max(times) for times in later.values()))
        row("stall, the first", *(times[0] for times in stalls.values()))
        row("until it is safe on the disk", *(median(f"saves/{who} commit") for who in (OURS, THEIRS)))
        row("room on the disk", *(median(f"saves/{who} bytes") for who in (OURS, THEIRS)), unit="MB")
    for cache in ("warm", "cold"):
        if f"loads/megatrain {cache}" in figures:
            row(f"load, {cache}", *(median(f"loads/{who} {cache}") for who in (OURS, THEIRS)))
    if "layout/conversion" in figures:
        load_s, convert_s = median("layout/deepspeed warm"), median("layout/conversion")
        row("load on 1 rank, with the conversion", median("layout/megatrain warm"), convert_s + load_s)
        row("the same, conversion left out", median("layout/megatrain warm"), load_s)
    for cache in ("warm", "cold"):
        if f"loads/megatrain {cache}" in figures:
            find_s = median(f"loads/megatrain {cache}, find")
            lines += ["", f"of our {cache} load, {1e3 * find_s:.0f} ms are the hash check"]
    for phase in ("steps", "free-core"):
        if f"{phase}/busy" in figures:
            lines += ["", _step_text(phase, figures)]
    return "\n".join(lines)


def _step_text(phase: str, figures: Figures) -> str:
    busy, quiet = ([s for one in figures[f"{phase}/{which}"] for s in one] for which in ("busy", "quiet"))
    pairs = zip(figures[f"{phase}/busy"], figures[f"{phase}/quiet"], strict=True)
    ratios = [statistics.mean(b) / statistics.mean(q) for b, q in pairs]

    def median(name: str) -> float:
        return 1e3 * float(statistics.median(figures[f"{phase}/{name}"]))

    return (
        f"{phase}: a step takes {statistics.median(ratios):.3f} of a quiet one while files are written "
        f"(median over the saves; means {1e3 * statistics.mean(busy):.0f} and "
        f"{1e3 * statistics.mean(quiet):.0f} ms, {len(busy)} and {len(quiet)} steps); a save takes "
        f"{median('commit'):.0f} ms to the commit and {median('writer'):.0f} ms of the writer's processor "
        f"time, and costs training {median('lost'):.0f} ms in all, of which stall {median('stall'):.0f} ms"
    )


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed"))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
