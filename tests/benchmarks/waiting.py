"""What it costs to time the waits for other ranks: steps with and without the clock, in turn in one run.

    python tests/benchmarks/waiting.py [--rounds N]

Two ranks of one thread each. A round is a step with the clock, one without, and one without again: how much
the last two differ is chance. Ratios are of medians over the rounds. Beside them the cost by itself: the
waits of a step times what a wait costs more with the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist

from megatrain.config import Config, parse_config
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.resilience.spikes import judge_after
from megatrain.resilience.waiting import Waits, timed_waits
from megatrain.train.step import train_step
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, batch_at, open_engine, play, tiny

QUICK = """
model: {vocab_size: 4096, dim: 192, layers: 2, heads: 6, kv_heads: 2, head_dim: 32, ffn_dim: 512,
        tied_embeddings: true}
data: {sequence_length: 128}
precision: {dtype: fp32}
train: {global_batch: 8, micro_batch: 4, threads: 1}
"""
CONTESTANTS = ("with", "without", "again")
WARM_UP = 10
CALLS = 20_000


def race(config: Config, context: ParallelContext, rounds: int) -> dict[str, Any]:
    engine = open_engine(config, context)
    judge = judge_after((), config.resilience.spikes)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTESTANTS}
    count = 0
    for number in range(WARM_UP + rounds):
        for place in range(len(CONTESTANTS)):
            name = CONTESTANTS[(number + place) % len(CONTESTANTS)]
            batch = batch_at(number, config, context.data.rank, context.data.size)
            with timed_waits() if name == "with" else nullcontext(Waits()) as waits:
                wall, processor = time.perf_counter(), time.process_time()
                train_step(engine, batch, 1e-4, Wish(), samples=config.train.global_batch, judge=judge)
                passed = (time.perf_counter() - wall, time.process_time() - processor)
            if number >= WARM_UP:
                seconds[name].append(passed)
                count = max(count, waits.count)
    return {**seconds, "waits": count, "wait_s": _wait_s()}


def _wait_s() -> float:
    """How much longer a wait for what is over takes with the clock."""
    work = dist.barrier(async_op=True)
    assert work is not None
    work.wait()
    found = []
    for timed in (True, False):
        with timed_waits() if timed else nullcontext():
            begun = time.perf_counter()
            for _ in range(CALLS):
                work.wait()
            found.append((time.perf_counter() - begun) / CALLS)
    return found[0] - found[1]


def _ratios(found: dict[str, Any], which: int) -> str:
    middle = {name: statistics.median(one[which] for one in found[name]) for name in CONTESTANTS}
    return f"{middle['with'] / middle['without']:.3f} (chance: {middle['again'] / middle['without']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    rounds = parser.parse_args().rounds
    configs = {
        "tiny, ZeRO 1": tiny(),
        "tiny, ZeRO 3": tiny("parallel.zero=3"),
        "tiny, tensor 2": tiny("parallel.tensor=2"),
        "quick start, ZeRO 1": parse_config(QUICK),
    }
    print("| run | ms a step | with / without, wall | processor time | waits a step | cost by itself |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, config in configs.items():
        found = run_ranks(play, 2, [act(race, config, rounds)], timeout_s=3600)[0][0]
        step_s = statistics.median(wall for wall, _ in found["without"])
        cost = found["waits"] * found["wait_s"] / step_s
        print(
            f"| {name} | {1e3 * step_s:.1f} | {_ratios(found, 0)} | {_ratios(found, 1)} "
            f"| {found['waits']} of {1e6 * found['wait_s']:.1f} µs | {cost:.3%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
