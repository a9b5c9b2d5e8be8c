"""Before the first step: does every rank compute, communicate and write as it should, and as fast as the
others?

A product of small whole numbers, which every device must get exactly right; the sum of a vector over all
ranks; a message to the next rank and from the one before; a file written and flushed. What is wrong, or much
slower than with the others, is named with its host.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from megatrain.parallel.collectives import all_reduce, gather_objects
from megatrain.parallel.context import ParallelContext

SIDE = {"cpu": 256, "cuda": 4096}
ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
FILE_BYTES = 1 << 24
TURNS = 3


@dataclass(frozen=True)
class Checked:
    """What one rank found. Speeds are the best of some turns."""

    rank: int
    host: str
    wrong: str
    """What gave a wrong result; empty if nothing did."""
    tflops: float
    all_gb_s: float
    """Bytes of a vector that is summed over all ranks, a second."""
    neighbour_gb_s: float
    """From the rank before to this one."""
    disk_mb_s: float


@dataclass(frozen=True)
class Bad:
    rank: int
    host: str
    why: str


def check_rank(context: ParallelContext, folder: Path) -> Checked:
    """Collective. `folder` is on the disk that the run writes to."""
    wrong: list[str] = []
    tflops = _products(context, wrong)
    everyone, neighbour = _sums(context, wrong), _messages(context, wrong)
    disk = _file(folder, context.world.rank, wrong)
    told = ", ".join(wrong)
    return Checked(context.world.rank, socket.gethostname(), told, tflops, everyone, neighbour, disk)


def check_all(context: ParallelContext, folder: Path, ratio: float) -> tuple[list[Checked], list[Bad]]:
    """Collective. What all ranks found, and who is wrong, or slower by `ratio` than the median; alike on all
    ranks."""
    own = check_rank(context, folder)
    found = [Checked(**one) for one in gather_objects(asdict(own), context.world)]
    return found, judge(found, ratio)


def judge(found: Sequence[Checked], ratio: float) -> list[Bad]:
    """Wrong ones first; then those whose speed is below the median by more than `ratio`."""
    bad = [Bad(one.rank, one.host, f"wrong: {one.wrong}") for one in found if one.wrong]
    for name, unit in (("tflops", "TFLOP/s"), ("neighbour_gb_s", "GB/s"), ("disk_mb_s", "MB/s")):
        usual = statistics.median(getattr(one, name) for one in found)
        for one in found:
            speed = getattr(one, name)
            if not one.wrong and speed * ratio < usual:
                what = name.partition("_")[0]
                bad.append(Bad(one.rank, one.host, f"slow {what}: {speed:.3g} {unit}, usual {usual:.3g}"))
    return bad


def _products(context: ParallelContext, wrong: list[str]) -> float:
    """Sums of at most 2^24 are exact in fp32: (A B) 1 must equal A (B 1), whatever the order of summation."""
    side = SIDE[context.device.type]
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-8, 9, (side, side), generator=draw).float().to(context.device) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        wanted = a.double() @ b.double().sum(1)
        if not torch.equal((a @ b).double().sum(1), wanted):
            wrong.append("a matrix product")
        seconds = _best(lambda: torch.mm(a, b), context)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * side**3 / seconds / 1e12


def _sums(context: ParallelContext, wrong: list[str]) -> float:
    world = context.world
    vector = torch.full((ELEMENTS[context.device.type],), float(world.rank + 1), device=context.device)
    all_reduce(vector, world)
    if not bool((vector == world.size * (world.size + 1) / 2).all()):
        wrong.append("a sum over all ranks")
    seconds = _best(lambda: all_reduce(vector.zero_(), world), context)
    return vector.numel() * 4 / seconds / 1e9


def _messages(context: ParallelContext, wrong: list[str]) -> float:
    world = context.world
    if world.size == 1:
        return 0.0
    count = ELEMENTS[context.device.type]
    out = torch.full((count,), float(world.rank), device=context.device)
    into = torch.empty_like(out)
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def pass_on() -> None:
        ways = [dist.P2POp(dist.isend, out, after), dist.P2POp(dist.irecv, into, before)]
        for work in dist.batch_isend_irecv(ways):
            work.wait()

    pass_on()
    if not bool((into == before).all()):
        wrong.append(f"a message from rank {before}")
    return count * 4 / _best(pass_on, context) / 1e9


def _file(folder: Path, rank: int, wrong: list[str]) -> float:
    path = folder / f".selfcheck-{rank:05d}"
    content = os.urandom(1 << 20) * (FILE_BYTES >> 20)
    try:
        started = time.perf_counter()
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - started
        if path.read_bytes() != content:
            wrong.append(f"a file in {folder}")
    except OSError as error:
        wrong.append(f"a file in {folder} ({error.strerror})")
        return 0.0
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return FILE_BYTES / seconds / 1e6


def _best(work: Callable[[], object], context: ParallelContext) -> float:
    """Seconds of the fastest of some turns."""
    found = []
    for _ in range(TURNS):
        _settle(context)
        started = time.perf_counter()
        work()
        _settle(context)
        found.append(time.perf_counter() - started)
    return max(min(found), 1e-9)


def _settle(context: ParallelContext) -> None:
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
