"""What the multi-rank tests run on each rank: a tiny model in training on batches that depend on the sample
alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.store import Identity, Store, load
from megatrain.config import Config, derive, parse_config
from megatrain.data.loader import RankBatch, make_batch, rows_of_rank
from megatrain.resilience.signals import Wish
from megatrain.state import RunFolder, RunState
from megatrain.train.engine import Engine, build_engine
from megatrain.train.ranks import leave, start_rank
from megatrain.train.schedule import learning_rate
from megatrain.train.step import train_step

BASE = """
model: {vocab_size: 64, dim: 32, layers: 2, heads: 4, kv_heads: 2, head_dim: 8, ffn_dim: 48, init_std: 0.1}
data: {sequence_length: 24}
optimizer: {clip: 0.5}
schedule: {learning_rate: 1e-2, warmup_steps: 2}
precision: {dtype: fp32}
train: {steps: 20, global_batch: 6, micro_batch: 2}
"""
EOS = 1


def tiny(*overrides: str) -> Config:
    return parse_config(BASE, overrides)


def batch_at(consumed: int, config: Config, dp_rank: int, dp_size: int) -> RankBatch:
    """Documents of very unequal length, so that ranks and micro-batches have unequal numbers of valid
    tokens."""
    train = config.train
    rows = rows_of_rank(train.global_batch, train.micro_batch, dp_rank, dp_size)
    windows = np.stack([_window(consumed + max(0, int(row)), config) for row in rows])
    micro = tuple(
        make_batch(
            windows[at : at + train.micro_batch],
            rows[at : at + train.micro_batch] >= 0,
            eos_id=EOS,
            document_mask=True,
        )
        for at in range(0, len(rows), train.micro_batch)
    )
    return RankBatch(micro, np.where(rows >= 0, consumed + rows, -1), sum(b.valid_tokens for b in micro), 0.0)


def _window(sample: int, config: Config) -> np.ndarray:
    random = np.random.default_rng(sample)
    window = random.integers(2, config.model.vocab_size, config.data.sequence_length + 1)
    window[random.random(len(window)) < (sample % 6) / 6] = EOS
    return window


def steps(
    engine: Engine, config: Config, state: RunState, count: int
) -> tuple[RunState, list[dict[str, Any]]]:
    records = []
    for _ in range(count):
        batch = batch_at(state.consumed_samples, config, engine.context.data.rank, engine.context.data.size)
        rate = learning_rate(state.step, config.schedule, config.train.steps)
        samples = config.train.global_batch
        result = train_step(engine, batch, rate, Wish(), samples=samples, last_step_s=0.0)
        state = RunState(
            seed=state.seed,
            data_fingerprint=state.data_fingerprint,
            step=state.step + 1,
            optimizer_step=state.optimizer_step + (not result.skipped),
            consumed_samples=state.consumed_samples + samples,
            consumed_tokens=state.consumed_tokens + result.valid_tokens,
        )
        ids = sorted(int(i) for i in batch.sample_ids if i >= 0)
        records.append(
            {"loss": result.loss, "norm": result.grad_norm, "valid": result.valid_tokens, "ids": ids}
        )
    return state, records


def identity(config: Config) -> Identity:
    return Identity(config.model.model_dump(mode="json"), "tokenizer", {"tensor": config.parallel.tensor})


def fresh_state(config: Config) -> RunState:
    return RunState(seed=config.run.seed, data_fingerprint="data")


def store_of(folder: str, engine: Engine) -> Store:
    return Store(RunFolder(Path(folder)), engine.context, keep=3, verify=True)


def open_engine(config: Config) -> Engine:
    context = start_rank(config)
    return build_engine(config, derive(config, context.world.size), context)


def train(rank: int, config: Config, count: int) -> list[dict[str, Any]]:
    engine = open_engine(config)
    _, records = steps(engine, config, fresh_state(config), count)
    leave()
    return records


def save_then_go_on(rank: int, config: Config, folder: str, before: int, after: int) -> dict[str, Any]:
    """An unbroken run that saves on its way."""
    engine = open_engine(config)
    state, first = steps(engine, config, fresh_state(config), before)
    saved = store_of(folder, engine).save(engine.held(), state, identity(config), first[-1]["loss"])
    assert saved.error is None, saved
    state, then = steps(engine, config, state, after)
    result = {"then": then, "sum": _digest(engine)}
    leave()
    return result


def resume(rank: int, config: Config, folder: str, after: int) -> dict[str, Any]:
    """A new engine that goes on from the newest checkpoint."""
    engine = open_engine(config)
    found = store_of(folder, engine).find()
    assert found.folder is not None
    checkpoint = Checkpoint(found.folder)
    load(checkpoint, engine.held())
    state = checkpoint.manifest.state
    engine.after_load(state.optimizer_step)
    _, then = steps(engine, config, state, after)
    result = {"then": then, "sum": _digest(engine)}
    leave()
    return result


def _digest(engine: Engine) -> list[tuple[str, Any, float]]:
    """Every held value of the optimizer, exactly."""
    return [
        (h.tensor, h.box, math.fsum(h.data.double().abs().flatten().tolist()))
        for h in engine.held()
        if h.owner
    ]


def deterministic() -> None:
    torch.manual_seed(0)
