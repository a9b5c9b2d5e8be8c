"""What the multi-rank tests run on each rank: a tiny model in training on batches that depend on the sample
alone.

A test hands `play` a list of acts; one spawn plays them one after the other, each with an engine of its own.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from megatrain.checkpoint.commit import Facts, Identity
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.retention import Retention
from megatrain.checkpoint.store import Store
from megatrain.checkpoint.tier import MAIN, Tier
from megatrain.config import Config, derive, parse_config
from megatrain.data.batch import Batch, RankBatch, make_batch, rows_of_rank
from megatrain.data.documents import documents_of
from megatrain.model import LossSum
from megatrain.parallel.context import ParallelContext
from megatrain.resilience.signals import Wish
from megatrain.resilience.spikes import judge_after
from megatrain.state import RunFolder, RunState
from megatrain.train import engine as engine_module
from megatrain.train.engine import Engine, build_engine
from megatrain.train.loop import advance
from megatrain.train.ranks import leave, start_rank
from megatrain.train.schedule import learning_rate
from megatrain.train.step import train_step

BASE = """
model: {vocab_size: 64, dim: 32, layers: 2, heads: 4, kv_heads: 2, head_dim: 8, ffn_dim: 48, init_std: 0.1}
# Labels behind EOS do not count: micro-batches and ranks have unequal numbers of labels.
data: {sequence_length: 24, document_start: none}
optimizer: {clip: 0.5}
schedule: {learning_rate: 1e-2, warmup_steps: 2}
precision: {dtype: fp32}
train: {steps: 20, global_batch: 6, micro_batch: 2, threads: 1}
"""
EOS = 1
SAMPLES = 6
Record = dict[str, Any]
Act = tuple[Callable[..., Any], Config, tuple[Any, ...]]


def tiny(*overrides: str) -> Config:
    return parse_config(BASE, overrides)


def act(function: Callable[..., Any], config: Config, *args: Any) -> Act:
    """One act of `play`: `function(config, context, *args)`, collective."""
    return function, config, args


def play(rank: int, acts: Sequence[Act]) -> list[Any]:
    """The acts' results; they share one tensor size, for DeepSpeed keeps the mesh of a process."""
    context = start_rank(acts[0][1])
    gc.freeze()  # what the fork server imported need not be looked through after each act
    results = []
    for function, config, args in acts:
        assert config.parallel.tensor == context.tensor.size
        results.append(function(config, context, *args))
        gc.collect()  # DeepSpeed's engines are full of cycles
    leave()
    return results


def open_engine(config: Config, context: ParallelContext) -> Engine:
    return build_engine(config, derive(config, context.world.size), context)


def wholes(config: Config, context: ParallelContext) -> tuple[list[int], int]:
    """With ZeRO 3: how many elements of weights lie whole on this rank when each block is about to be parted,
    and when the engine is made."""
    counts: list[int] = []

    def whole() -> int:
        found = (one for one in gc.get_objects() if isinstance(one, torch.nn.Parameter))
        return sum(one.data.numel() for one in found if one.device.type != "meta")

    before, real = whole(), engine_module.part

    def counting(*args: Any) -> None:
        counts.append(whole() - before)
        real(*args)

    engine_module.part = counting
    engine = open_engine(config, context)
    engine_module.part = real
    return counts, sum(p.data.numel() for p in engine.model.parameters())


# --- batches ---


def batch_at(consumed: int, config: Config, dp_rank: int, dp_size: int) -> RankBatch:
    """Documents of very unequal length, so that ranks and micro-batches have unequal numbers of valid
    tokens."""
    train = config.train
    rows = rows_of_rank(train.global_batch, train.micro_batch, dp_rank, dp_size)
    windows = np.stack([window_of(consumed + max(0, int(row)), config) for row in rows])
    micro = tuple(
        make_batch(
            windows[at : at + train.micro_batch],
            np.where(rows[at : at + train.micro_batch] >= 0, windows.shape[1], 0),
            eos_id=EOS,
            documents=documents_of(config.data),
        )
        for at in range(0, len(rows), train.micro_batch)
    )
    return RankBatch(micro, np.where(rows >= 0, consumed + rows, -1), sum(b.valid_tokens for b in micro), 0.0)


def window_of(sample: int, config: Config) -> np.ndarray:
    random = np.random.default_rng(sample)
    window = random.integers(2, config.model.vocab_size, config.data.sequence_length + 1)
    window[random.random(len(window)) < (sample % 6) / 6] = EOS
    return window


# --- steps ---


def fresh_state(config: Config) -> RunState:
    return RunState(seed=config.run.seed, data_fingerprint="data")


def one_step(
    engine: Engine, config: Config, state: RunState, *, masked: bool = False
) -> tuple[RunState, Record]:
    batch = batch_at(state.consumed_samples, config, engine.context.data.rank, engine.context.data.size)
    if masked:
        micro = [
            dataclasses.replace(one, loss_mask=torch.zeros_like(one.loss_mask), valid_tokens=0)
            for one in batch.micro_batches
        ]
        batch = dataclasses.replace(batch, micro_batches=tuple(micro), valid_tokens=0)
    rate = learning_rate(state.step, config.schedule, config.train.steps)
    samples, judge = config.train.global_batch, judge_after(state.window, config.resilience.spikes)
    result = train_step(engine, batch, rate, Wish(), samples=samples, judge=judge)
    record = {
        "loss": result.loss,
        "norm": result.grad_norm,
        "valid": result.valid_tokens,
        "skipped": result.skipped,
        "ids": [int(i) for i in batch.sample_ids if i >= 0],
        "valid_by_micro": [micro.valid_tokens for micro in batch.micro_batches],
    }
    return advance(state, result, config.resilience.spikes.window), record


def steps(engine: Engine, config: Config, state: RunState, count: int) -> tuple[RunState, list[Record]]:
    records = []
    for _ in range(count):
        state, record = one_step(engine, config, state)
        records.append(record)
    return state, records


# --- what an engine holds, exactly ---


def digest(engine: Engine) -> dict[str, str]:
    """Hashes of every fp32 value of the optimizer on this rank, of Adam's step counts, and of the weights
    that the model computes with."""
    optimizer = engine.deepspeed.optimizer
    found = {f"{h.tensor}@{h.box}": _hash(h.data) for h in engine.held()}
    counts = {float(entry["step"]) for entry in optimizer.optimizer.state.values()}
    assert len(counts) == 1, counts
    return {**found, "adam step": str(counts), **computing_weights(engine)}


def computing_weights(engine: Engine) -> dict[str, str]:
    import deepspeed

    stage3 = engine.deepspeed.zero_optimization_stage() == 3
    parameters = list(engine.model.named_parameters())
    with deepspeed.zero.GatheredParameters([p for _, p in parameters], enabled=stage3):
        return {f"low/{name}": _hash(p.detach()) for name, p in parameters}


def _hash(tensor: torch.Tensor) -> str:
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return xxhash.xxh3_128_hexdigest(raw.numpy())


def stray_values(engine: Engine, whole: dict[str, torch.Tensor]) -> list[str]:
    """What this rank holds that is not, bit for bit, its box of the logical tensors: nothing, one hopes."""
    wrong = []
    for held in engine.held():
        cut = tuple(slice(a, a + n) for a, n in zip(held.box.offset, held.box.shape, strict=True))
        if not torch.equal(held.data, whole[held.tensor][cut]):
            wrong.append(f"{held.tensor} {held.box}")
    import deepspeed

    stage3 = engine.deepspeed.zero_optimization_stage() == 3
    parameters = list(engine.model.named_parameters())
    with deepspeed.zero.GatheredParameters([p for _, p in parameters], enabled=stage3):
        for name, parameter in parameters:
            for piece in engine.layout[name]:
                cut = tuple(slice(a, a + n) for a, n in zip(piece.offset, piece.local, strict=True))
                rows = parameter.detach().narrow(0, piece.first_row, piece.local[0])
                if not torch.equal(rows, whole[f"weights/{piece.name}"][cut].to(rows.dtype)):
                    wrong.append(f"low/{piece.name}")
    return wrong


# --- acts ---


def identity(config: Config) -> Identity:
    precision = config.precision.model_dump(mode="json")
    layout = {"tensor": config.parallel.tensor}
    return Identity(config.model.model_dump(mode="json"), "tokenizer", precision, layout)


def store_of(folder: str, engine: Engine) -> Store:
    place = LocalPlace(RunFolder(Path(folder)).checkpoints)
    return Store([Tier(MAIN, place, Retention(keep=3))], engine.context)


def train(config: Config, context: ParallelContext, count: int) -> list[Record]:
    engine = open_engine(config, context)
    return steps(engine, config, fresh_state(config), count)[1]


def save_then_go_on(
    config: Config, context: ParallelContext, folder: str, before: int, after: int
) -> dict[str, Any]:
    """An unbroken run that saves on its way."""
    engine = open_engine(config, context)
    state, first = steps(engine, config, fresh_state(config), before)
    store = store_of(folder, engine)
    store.save(engine.held(), Facts(state, identity(config), first[-1]["loss"]))
    state, then = steps(engine, config, state, after)  # while the files are written
    (saved,) = store.wait()
    assert saved.error is None, saved
    return {"records": first + then, "digest": digest(engine), "state": state}


def resume(
    config: Config, context: ParallelContext, folder: str, after: int, whole: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """A new engine that goes on from the newest checkpoint, whose logical tensors are `whole`."""
    engine = open_engine(config, context)
    store = store_of(folder, engine)
    found = store.find()
    assert found.name is not None
    checkpoint = store.open(found, engine.held())
    engine.load(checkpoint)
    state = checkpoint.manifest.state
    stray = stray_values(engine, whole)
    state, records = steps(engine, config, state, after)
    return {"stray": stray, "records": records, "digest": digest(engine), "state": state}


def train_marked(config: Config, context: ParallelContext, mark: bool, count: int) -> list[Record]:
    """A mutation: every parameter says that it is sliced, or that it is replicated."""
    real = engine_module.build_model

    def marked(*args: Any, **kwargs: Any) -> Any:
        model, layout = real(*args, **kwargs)
        for parameter in model.parameters():
            parameter.tensor_model_parallel = mark
        return model, layout

    engine_module.build_model = marked
    try:
        return train(config, context, count)
    finally:
        engine_module.build_model = real


@dataclasses.dataclass(frozen=True)
class BadEngine(Engine):
    """On one rank, a micro-batch's loss is not finite, with or without its gradient, or that is huge."""

    where: str

    def forward(self, batch: Batch) -> LossSum:
        loss = super().forward(batch)
        calls = int(self.model.__dict__.setdefault("calls", 0))
        self.model.__dict__["calls"] = calls + 1
        which = 0 if self.where == "spike" else 1  # the second of that rank has no token, and no gradient
        if self.context.world.rank != self.context.world.size - 1 or calls != which:
            return loss
        match self.where:
            case "loss":  # the gradient stays finite: only the agreed veto can stop the update
                return LossSum(loss.total + torch.tensor(float("nan")), loss.tokens)
            case "infinite":
                return LossSum(loss.total + torch.tensor(float("inf")), loss.tokens)
            case "gradient":  # the loss stays finite: DeepSpeed sees the norm
                loss.total.register_hook(lambda grad: grad * float("nan"))
                return loss
            case "spike":
                loss.total.register_hook(lambda grad: grad * 1e5)
                return loss
        raise AssertionError(self.where)


def train_with_bad_step(
    config: Config, context: ParallelContext, bad: dict[int, str | None], count: int
) -> dict[str, Any]:
    """At the steps in `bad`, one rank has a loss or gradient that is not finite; "masked": no token of the
    batch counts; None leaves the step out altogether, as a run without that batch does."""
    engine = open_engine(config, context)
    state, records = fresh_state(config), []
    for number in range(count):
        if number in bad and bad[number] is None:
            left_out = config.train.global_batch
            state = dataclasses.replace(
                state, step=state.step + 1, consumed_samples=state.consumed_samples + left_out
            )
            continue
        chosen = engine
        if number in bad and bad[number] != "masked":
            engine.model.__dict__["calls"] = 0
            parts = {f.name: getattr(engine, f.name) for f in dataclasses.fields(engine)}
            chosen = BadEngine(**parts, where=str(bad[number]))
        state, record = one_step(chosen, config, state, masked=bad.get(number) == "masked")
        records.append(record)
    return {"records": records, "digest": digest(engine), "state": state}
