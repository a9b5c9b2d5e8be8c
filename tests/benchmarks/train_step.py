"""Speed of our training step against transformers' Llama in a bare loop, and its matrix products alone.

    python tests/benchmarks/train_step.py [--model 58m|quick] [--dtype bf16|fp32] [--rounds N] [--json FILE]

All contestants train the same weights on the same batch in one process. They take turns, one step each in
every round, so that a machine which slows down slows all of them; a figure is the median of the rounds.
Read the ratios: tokens/s belong to the machine and the hour. Where others use the machine too, add
`--threads 1 --clock processor`: threads that wait for each other would measure the others' work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from megatrain.config import Config, derive, parse_config
from megatrain.data.batch import Batch, RankBatch, make_batch
from megatrain.data.documents import Documents
from megatrain.export.hf_config import hf_config
from megatrain.export.names import to_hf
from megatrain.model import model_plan
from megatrain.model.flops import count_parameters
from megatrain.parallel.context import Axis, ParallelContext
from megatrain.parallel.plan import layout_of
from megatrain.resilience.signals import Wish
from megatrain.resilience.spikes import Judge
from megatrain.train.engine import DTYPES, Engine, build_engine
from megatrain.train.ranks import leave, start_rank
from megatrain.train.step import train_step

MODELS = {
    "58m": """
        model: {vocab_size: 32000, dim: 512, layers: 8, heads: 8, kv_heads: 8, head_dim: 64, ffn_dim: 1408}
        data: {sequence_length: 1024}
        train: {micro_batch: 1, global_batch: 1}
    """,
    "quick": """
        model: {vocab_size: 4096, dim: 192, layers: 4, heads: 6, kv_heads: 2, head_dim: 32, ffn_dim: 512,
                tied_embeddings: true}
        data: {sequence_length: 256}
        train: {micro_batch: 8, global_batch: 8}
    """,
}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
LEARNING_RATE = 1e-4
EOS = 1
Step = Callable[[], object]


@dataclass
class Contestant:
    name: str
    work: str
    """What the parameters and the optimizer are, where it is not ours."""
    step: Step
    seconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="58m")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="default: the cores of the machine")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: time used, not time passed"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled contestants")
    parser.add_argument("--json", type=Path, help="write every single time to this file as well")
    arguments = parser.parse_args()

    compiled = not arguments.no_compile and shutil.which(os.environ.get("CXX", "g++")) is not None
    threads = [] if arguments.threads is None else [f"train.threads={arguments.threads}"]
    config = _config(arguments.model, arguments.dtype, *threads)
    os.environ["MASTER_PORT"] = str(_free_port())
    context = start_rank(config)  # memory is kept and threads are set for all contestants alike
    contestants = _contestants(config, context, compiled)
    tokens = config.train.global_batch * config.data.sequence_length
    _race(contestants, arguments.rounds, CLOCKS[arguments.clock])
    print(_table(contestants, config, tokens, f"{arguments.rounds} rounds, {arguments.clock} time"))
    if arguments.json:
        rows = [{k: v for k, v in vars(c).items() if k != "step"} for c in contestants]
        machine = {
            "cpu": _cpu(),
            "threads": torch.get_num_threads(),
            "clock": arguments.clock,
            "versions": _versions(),
        }
        run = {"model": arguments.model, "dtype": arguments.dtype, "tokens_per_step": tokens}
        arguments.json.write_text(json.dumps({**run, **machine, "contestants": rows}, indent=1))
    leave()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _config(model: str, dtype: str, *overrides: str) -> Config:
    fixed = [
        f"precision.dtype={dtype}",
        "parallel.zero=1",
        "data.document_mask=false",
        "train.deterministic=false",
    ]
    return parse_config(MODELS[model], [*fixed, *overrides])


def _contestants(config: Config, context: ParallelContext, compiled: bool) -> list[Contestant]:
    """Everyone warmed up; their first losses are compared, so that all compute the same thing."""
    plain, packed = _batch(config, "concat"), _batch(config, "start")
    documents = config.model_copy(update={"data": config.data.model_copy(update={"document_mask": True})})
    blocks = config.model_copy(update={"train": config.train.model_copy(update={"compile": "block"})})
    whole = config.model_copy(update={"train": config.train.model_copy(update={"compile": "engine"})})
    low = config.precision.dtype == "bf16"
    found: list[Contestant] = []

    def add(name: str, work: str, step: Callable[[], float], wanted: float | None) -> float:
        first = step()
        if wanted is not None:
            assert abs(first - wanted) < (2e-2 if low else 1e-4), (name, first, wanted)
        step()
        found.append(Contestant(name, work, step, []))
        return first

    ours = build_engine(config, derive(config, 1), context)
    theirs = {name: value.clone() for name, value in _weights_for_hf(ours, config).items()}
    state = "fp32 master" if low else ""
    loss = add("megatrain", state, _our_step(ours, plain), None)
    engine = build_engine(documents, derive(config, 1), context)
    add("megatrain, document mask", state, _our_step(engine, packed), None)
    if compiled:
        engine = build_engine(blocks, derive(config, 1), context)
        add("megatrain, compile: block", state, _our_step(engine, plain), loss)
        engine = build_engine(whole, derive(config, 1), context)
        add("megatrain, compile: engine", state, _our_step(engine, plain), loss)
    peers = [("transformers, eager", False)] + [("transformers, compiled", True)] * compiled
    for name, compile_it in peers:
        if low:
            add(name, "bf16 only", _bare_loop(_peer(config, theirs), plain, compile_it, master=False), loss)
        add(name, state, _bare_loop(_peer(config, theirs), plain, compile_it, master=low), loss)
    products = MatrixProducts(config)
    found.append(Contestant("limit: its matrix products alone", "", products, []))
    products()
    return found


def _race(contestants: list[Contestant], rounds: int, clock: Callable[[], float]) -> None:
    for turn in range(rounds):
        for index in range(len(contestants)):
            contestant = contestants[(index + turn) % len(contestants)]
            started = clock()
            contestant.step()
            contestant.seconds.append(clock() - started)


def _batch(config: Config, documents: Documents) -> RankBatch:
    """Random tokens; where documents are kept apart, one ends about every 200 of them."""
    random = np.random.default_rng(0)
    shape = (config.train.micro_batch, config.data.sequence_length + 1)
    windows = random.integers(2, config.model.vocab_size, shape)
    if documents != "concat":
        windows[random.random(shape) < 1 / 200] = EOS
    rows = np.arange(config.train.micro_batch)
    batch = make_batch(windows, np.where(rows >= 0, windows.shape[1], 0), eos_id=EOS, documents=documents)
    return RankBatch((batch,), rows, batch.valid_tokens, 0.0)


def _our_step(engine: Engine, batch: RankBatch) -> Callable[[], float]:
    samples = len(batch.sample_ids)

    def step() -> float:
        return train_step(engine, batch, LEARNING_RATE, Wish(), samples=samples, judge=Judge()).loss

    return step


# --- the peer


def _weights_for_hf(engine: Engine, config: Config) -> dict[str, torch.Tensor]:
    stored = [(name, tuple(p.shape)) for name, p in engine.model.named_parameters()]
    layout = layout_of(stored, model_plan(config.model), Axis())
    return {
        to_hf(piece.name): parameter.detach().narrow(0, piece.first_row, piece.local[0])
        for name, parameter in engine.model.named_parameters()
        for piece in layout[name]
    }


def _peer(config: Config, weights: dict[str, torch.Tensor]) -> LlamaForCausalLM:
    sequence = config.data.sequence_length
    told = hf_config(config.model, sequence_length=sequence, dtype="fp32", bos_id=1, eos_id=2)
    model = LlamaForCausalLM(LlamaConfig(**told | {"use_cache": False})).to(DTYPES[config.precision.dtype])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == [] and missing == (["lm_head.weight"] if config.model.tied_embeddings else [])
    return model.train()


def _bare_loop(
    model: LlamaForCausalLM, batch: RankBatch, compiled: bool, *, master: bool
) -> Callable[[], float]:
    """Forward, backward, clip, fused AdamW; with `master` the optimizer works on fp32 copies of bf16
    parameters."""
    parameters = list(model.parameters())
    held = [nn.Parameter(p.detach().float()) for p in parameters] if master else parameters
    groups = [
        {"params": [p for p in held if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in held if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    micro: Batch = batch.micro_batches[0]
    tokens, labels = micro.tokens.contiguous(), micro.labels.contiguous()  # transformers cannot do with views
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        loss = forward(tokens, labels=labels, shift_labels=labels).loss
        loss.backward()
        if master:
            for own, parameter in zip(held, parameters, strict=True):
                own.grad = parameter.grad.float()
                parameter.grad = None
        nn.utils.clip_grad_norm_(held, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if master:
            with torch.no_grad():
                torch._foreach_copy_(parameters, held)
        return float(loss.detach())

    return step


# --- the limit


class MatrixProducts:
    """Every matrix product of a training step, forward and backward, with the same shapes and dtype.

    Linear layers and the head: one product forward, two backward, each with its own operands. Attention: two
    forward and four backward, by blocks of `BLOCK` queries, so that what lies above the diagonal is left out
    as a causal kernel leaves it out. Results go into memory that is there already.
    """

    BLOCK = 256

    def __init__(self, config: Config) -> None:
        model = config.model
        dtype = DTYPES[config.precision.dtype]
        self.rows = config.train.micro_batch * config.data.sequence_length
        self.sequence = config.data.sequence_length
        attention = model.heads * model.head_dim
        qkv = attention + 2 * model.kv_heads * model.head_dim
        layer = [
            (model.dim, qkv),
            (attention, model.dim),
            (model.dim, 2 * model.ffn_dim),
            (model.ffn_dim, model.dim),
        ]
        shapes = layer * model.layers + [(model.dim, model.vocab_size)]
        self.linears = [
            (
                torch.randn(self.rows, inside, dtype=dtype),
                torch.randn(outside, inside, dtype=dtype),
                torch.randn(self.rows, outside, dtype=dtype),
            )
            for inside, outside in shapes
        ]
        largest = max(max(self.rows * b, self.rows * a, a * b) for a, b in shapes)
        self.out = torch.empty(largest, dtype=dtype)
        heads = (config.train.micro_batch * model.heads, self.sequence, model.head_dim)
        self.attention = [[torch.randn(heads, dtype=dtype) for _ in range(4)] for _ in range(model.layers)]

    def __call__(self) -> None:
        for x, weight, grad in self.linears:
            torch.mm(x, weight.t(), out=self._into(len(x), len(weight)))
            torch.mm(grad, weight, out=self._into(len(x), weight.shape[1]))
            torch.mm(grad.t(), x, out=self._into(*weight.shape))
        for q, k, v, grad in self.attention:
            for first in range(0, self.sequence, self.BLOCK):
                block = slice(first, min(first + self.BLOCK, self.sequence))
                past = slice(0, block.stop)
                scores = q[:, block] @ k[:, past].mT
                _ = scores @ v[:, past]
                _ = scores.mT @ grad[:, block]
                _ = grad[:, block] @ v[:, past].mT
                _ = scores @ k[:, past]
                _ = scores.mT @ q[:, block]

    def _into(self, rows: int, columns: int) -> torch.Tensor:
        return self.out[: rows * columns].view(rows, columns)


# --- the table


def _table(contestants: list[Contestant], config: Config, tokens: int, how: str) -> str:
    medians = {(c.name, c.work): statistics.median(c.seconds) for c in contestants}
    like = "fp32 master" if config.precision.dtype == "bf16" else ""
    eager, limit = medians["transformers, eager", like], medians["limit: its matrix products alone", ""]
    size = count_parameters(config.model).total / 1e6
    lines = [
        f"{size:.1f} M parameters, {config.precision.dtype}, {tokens} tokens a step, "
        f"{torch.get_num_threads()} threads, {how}; {_cpu()}; {_versions()}",
        "",
        "| step | optimizer works on | tokens/s | ms (fastest) | speed / eager peer | time / limit |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for c in contestants:
        median = medians[c.name, c.work]
        times = f"{tokens / median:.0f} | {1e3 * median:.0f} ({1e3 * min(c.seconds):.0f})"
        lines.append(f"| {c.name} | {c.work} | {times} | {eager / median:.2f} | {median / limit:.2f} |")
    return "\n".join(lines)


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "deepspeed", "transformers"))


if __name__ == "__main__":
    main()
