"""What earlier versions wrote is still read: datasets, runs with their checkpoints, configs, exports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatrain.checkpoint.read import Checkpoint
from megatrain.cli.main import main
from tests.cluster.launched import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parent.parent
VERSIONS = sorted(path for path in (REPOSITORY / "tests" / "fixtures").iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, as the current folder: paths in configs are relative."""
    copy = tmp_path / "old"
    shutil.copytree(request.param, copy)
    monkeypatch.chdir(copy)
    return copy


def call(*arguments: str) -> int:
    try:
        return main(list(arguments)) or 0
    except SystemExit as end:
        return int(end.code or 0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_is_read_by_the_commands(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ("data", "verify", "data"),
        ("data", "stats", "data"),
        ("data", "inspect", "train.yaml", "--sample", "3"),
        ("check", "train.yaml", "--ranks", "1", "train.steps=20"),
        ("checkpoint", "verify", "run"),
        ("report", "run"),
        ("evaluate", "run", "--split", "validation", "--config", "train.yaml"),
        ("generate", "run/export", "--prompt", "KING", "--max-new-tokens", "3"),
    ):
        assert call(*command) == 0, (command, capsys.readouterr())
    # Its steps gave other texts: training goes on with it, a rerun or another source would mix two pipelines.
    for arguments in ((), ("append=true",)):
        assert call("prepare", "prepare.yaml", *arguments) == 2
        assert "was prepared by another config (pipeline_version: 3 there, " in capsys.readouterr().err


def test_a_run_continues_by_the_same_command_with_the_same_losses(old: Path) -> None:
    before = {line["step"]: line["loss"] for line in lines(old / "run" / "metrics.jsonl")}
    newest = Checkpoint(old / "run" / "checkpoints" / "step-00000012").manifest
    shutil.rmtree(old / "run" / "checkpoints" / "step-00000012")
    done = subprocess.run(
        [sys.executable, "-m", "megatrain", "train", "train.yaml"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = lines(old / "run" / "metrics.jsonl")[len(before) :]
    assert [line["step"] for line in again] == list(range(7, 13)) and {line["attempt"] for line in again} == {
        2
    }
    # Bit for bit on one machine; another processor may add in another order.
    assert [line["loss"] for line in again] == pytest.approx([before[n] for n in range(7, 13)], abs=2e-6)
    state = Checkpoint(old / "run" / "checkpoints" / "step-00000012").manifest.state
    assert (state.consumed_samples, state.consumed_tokens, state.skipped) == (
        newest.state.consumed_samples,
        newest.state.consumed_tokens,
        newest.state.skipped,
    )
