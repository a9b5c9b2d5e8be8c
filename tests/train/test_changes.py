"""A resume reports what alters the run's numbers: one line, by the start that saved the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megatrain.config import Config, parse_config, to_yaml
from megatrain.state import RunFolder
from megatrain.train.changes import Starts, changes, read_starts, settings_now, write_start

BASE = """
schedule: {learning_rate: 4e-3, final_fraction: 0.01, warmup_steps: 2}
train: {steps: 20}
"""


def settings(*overrides: str, ranks: int = 1) -> dict[str, Any]:
    return settings_now(parse_config(BASE, overrides), ranks, {"torch": "2.11"})


def line(*overrides: str, step: int = 20, data: str | None = None, ranks: int = 1) -> str | None:
    found = changes(settings(), settings(*overrides, ranks=ranks), step, data)
    return found.text if found is not None else None


def test_nothing_is_said_of_what_alters_no_number() -> None:
    assert line() is None
    quiet = ("observe.print_every=5", "checkpoint.every=3", "run.folder=x", "resilience.lease_s=5")
    assert line(*quiet, "evaluate.every=1", "cluster.processes=3") is None
    constant = ("schedule.kind=constant",)
    assert changes(settings(*constant), settings(*constant, "train.steps=30"), 20) is None


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("train.steps=30",), "learning rate 4.0e-05 → 1.0e-03 (train.steps 20 → 30)"),
        (
            ("schedule.learning_rate=8e-3", "schedule.kind=linear"),
            "learning rate 4.0e-05 → 8.0e-05 (schedule.kind cosine → linear, "
            "schedule.learning_rate 0.004 → 0.008)",
        ),
        (("optimizer.beta2=0.99",), "optimizer.beta2 0.95 → 0.99"),
        (("optimizer.clip=0",), "optimizer.clip 1 → 0"),
        (("train.global_batch=32",), "train.global_batch 64 → 32"),
        (("precision.dtype=fp32",), "precision.dtype bf16 → fp32"),
        (("resilience.spikes.action=skip",), "resilience.spikes.action off → skip"),
        (
            ("parallel.tensor=2", "model.vocab_size=32000"),
            "floating-point summation order only: parallel.tensor 1 → 2",
        ),
        (
            ("deepspeed.zero_optimization.reduce_bucket_size=9", "data.document_mask=false"),
            "data.document_mask true → false; floating-point summation order only: "
            "deepspeed.zero_optimization.reduce_bucket_size null → 9",
        ),
        (
            ("data.sources=[{path: a, name: web, weight: 2}]",),
            "data.sources {} → {web: 2.0}",
        ),
    ],
)
def test_each_kind_of_change_has_its_words(overrides: tuple[str, ...], text: str) -> None:
    assert line(*overrides) == text


def test_one_line_has_them_all() -> None:
    assert line("optimizer.eps=1e-6", data="the shards of data.sources changed", ranks=4) == (
        "optimizer.eps 1e-08 → 1e-06; data: the shards of data.sources changed; "
        "floating-point summation order only: ranks 1 → 4"
    )
    later = line("train.steps=40", "schedule.kind=wsd", "schedule.decay_steps=4", step=0)
    assert later is not None and later.startswith(
        "learning rate 1.3e-03 as before, but not later (schedule.kind"
    )


def test_a_checkpoint_is_compared_with_the_start_that_saved_it(tmp_path: Path) -> None:
    """Not with one in between that never trained; nor with a config.yaml that somebody has edited."""
    folder = RunFolder(tmp_path)
    for attempt, rate in ((1, 1), (2, 1), (3, 5), (4, 1)):
        write_start(folder, read_starts(folder), attempt, settings(f"schedule.learning_rate={rate}"))
    known = read_starts(folder)
    assert [number for number, _ in known.settings] == [1, 3, 4], "those that changed something"
    rates = [(known.of(attempt) or {})["schedule.learning_rate"] for attempt in (1, 2, 3, 4, 9)]
    assert rates == [1, 1, 5, 1, 1] and known.of(0) is None


def test_a_run_of_an_older_version_has_its_config_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert "has no settings.json" in (read_starts(folder).unknown or "")
    folder.config.write_text(to_yaml(parse_config(BASE, ["optimizer.clip=7"])))
    assert (read_starts(folder).of(3) or {})["optimizer.clip"] == 7
    folder.config.write_text("gone: {")
    assert read_starts(folder).of(3) is None and read_starts(folder).unknown
    # A key that the older version had not is compared with its default.
    old = {key: value for key, value in settings().items() if key != "optimizer.eps"}
    assert changes(old, settings(), 5) is None
    found = changes(old, settings("optimizer.eps=1"), 5)
    assert found is not None and found.numbers == {"optimizer.eps": [1e-8, 1.0]}


def test_damage_is_said_and_stops_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_start(folder, Starts(), 1, settings())
    sound = folder.settings.read_text()
    for text in (sound.replace("0.95", "0.96"), "[]", "{", json.dumps({"version": 1, "starts": [3]})):
        folder.settings.write_text(text)
        known = read_starts(folder)
        assert known.of(1) is None and "damaged" in (known.unknown or "")
    write_start(folder, known, 2, settings())
    assert read_starts(folder).of(2) == settings()
    assert settings_now(Config(), 1, {})["ranks"] == 1
