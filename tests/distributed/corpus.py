"""A tiny prepared dataset of real shards with a real tokenizer, and whole runs on it."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatrain.config import Config, parse_config
from megatrain.observe.history import read_evaluations, read_metrics
from megatrain.state import RunFolder

VOCABULARY = 320
BASE = """
model: {vocab_size: 320, dim: 16, layers: 1, heads: 2, kv_heads: 1, head_dim: 8, ffn_dim: 24, init_std: 0.1}
data: {sequence_length: 32}
optimizer: {clip: 0.5}
schedule: {learning_rate: 1e-2, warmup_steps: 2}
precision: {dtype: fp32}
train: {steps: 10, global_batch: 5, micro_batch: 2, threads: 1}
checkpoint: {every: 4}
observe: {wandb: off, peak_tflops: 1}
"""


def make_corpus(folder: Path, seed: int = 0) -> Path:
    """Two sources of random words, split and tokenized by data_tools."""
    from data_tools.config import DataConfig
    from data_tools.prepare import prepare
    from data_tools.progress import Progress

    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("aeionrst"), 4)) for _ in range(60)]
    for name, count in (("prose", 120), ("verse", 60)):
        texts = [f"{name} {n} 。\n" + " ".join(rng.choice(words, 30)) + "\n" for n in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    config = DataConfig(
        output=str(folder / "data"),
        where={"engine": "local", "workers": 1},
        sources={name: {"files": [str(folder / f"{name}.jsonl")]} for name in ("prose", "verse")},
        split={"validation": 0.15, "test": 0.05},
        tokenizer={"vocab_size": VOCABULARY},
    )
    prepare(config, Progress(io.StringIO()))
    return folder / "data"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the prepared dataset; made once, read only."""
    folder = tmp_path_factory.getbasetemp() / "corpus"
    return folder / "data" if folder.exists() else make_corpus(folder)


def run_config(corpus: Path, folder: Path, *overrides: str) -> Config:
    paths = (f"data.sources=[{{path: '{corpus}'}}]", f"run.folder={folder}")
    return parse_config(BASE, [*paths, *overrides])


@dataclass(frozen=True)
class Play:
    """A run, and what is done to it from outside."""

    config: Config
    touch: Mapping[int, str] = field(default_factory=dict)
    """After this step, a file of this name appears in the run's folder."""
    terminate: Mapping[int, int] = field(default_factory=dict)
    """After this step, this rank gets SIGTERM."""
    signals: Mapping[int, tuple[int, signal.Signals]] = field(default_factory=dict)
    """After this step, this rank gets that signal."""
    fault: str = ""


def play_runs(rank: int, plays: Sequence[Play], folder: str | None = None) -> list[str]:
    """How each run ended: "asked", "preempted", "done", or the error's name and text."""
    from megatrain.errors import FailedWork, UserError
    from megatrain.train import loop
    from megatrain.train.ranks import leave, start_rank

    if folder is not None:
        Path(folder, f"pid-{rank}").write_text(str(os.getpid()))
    context = start_rank(plays[0].config)
    ends = []
    for play in plays:
        with _deeds(play, rank):
            try:
                stop = loop.train(play.config, context)
                ends.append(stop.value if stop is not None else "done")
            except (UserError, FailedWork) as error:
                ends.append(f"{type(error).__name__}: {error}")
    leave()
    return ends


@contextmanager
def _deeds(play: Play, rank: int) -> Iterator[None]:
    from megatrain import faults
    from megatrain.train import loop

    real = loop.advance

    def advance(*args: Any) -> Any:
        state = real(*args)
        if rank == 0 and state.step in play.touch:
            Path(play.config.run.folder, play.touch[state.step]).touch()
        if play.terminate.get(state.step) == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        if state.step in play.signals and play.signals[state.step][0] == rank:
            os.kill(os.getpid(), play.signals[state.step][1])
        return state

    loop.advance = advance
    faults._hits.clear()
    if play.fault:
        os.environ["MEGATRAIN_FAULT"] = play.fault
    try:
        yield
    finally:
        loop.advance = real
        for name in [name for name in os.environ if name.startswith("MEGATRAIN_FAULT")]:
            del os.environ[name]


# --- what a run left behind ---

TOLD = ("loss", "grad_norm", "lr", "consumed_samples", "consumed_tokens", "skipped")


def curve(folder: Path) -> dict[int, tuple[Any, ...]]:
    """By step, what the last attempt at it told."""
    return {line["step"]: tuple(line[key] for key in TOLD) for line in read_metrics(RunFolder(folder))}


def evaluations(folder: Path) -> dict[int, Any]:
    return {line["step"]: line["results"] for line in read_evaluations(RunFolder(folder))}


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines() if line)
    return [line for line in lines if line["event"] == kind]


def saved_steps(folder: Path) -> list[int]:
    """Of the committed checkpoints."""
    return sorted(int(path.parent.name[5:]) for path in folder.glob("checkpoints/step-*/MANIFEST.json"))
