"""The check before the first step: sound ranks pass; one that is wrong or slow is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from megatrain.config import Config
from megatrain.parallel.context import ParallelContext
from megatrain.resilience import selfcheck
from megatrain.resilience.selfcheck import Checked, check_all, check_rank, judge
from tests.distributed.corpus import Play, events, play_runs, run_config
from tests.distributed.corpus import corpus as corpus  # a fixture
from tests.distributed.ranks import run_ranks
from tests.distributed.training import act, play, tiny

SOUND = [Checked(rank, f"node{rank}", "", 100.0, 10.0, 20.0, 500.0) for rank in range(4)]


def test_who_is_named() -> None:
    assert judge(SOUND, 2.0) == []
    slow = [*SOUND[:3], dataclasses.replace(SOUND[3], tflops=40.0, disk_mb_s=400.0)]
    (bad,) = judge(slow, 2.0)
    assert (bad.rank, bad.host, bad.why) == (3, "node3", "slow tflops: 40 TFLOP/s, usual 100")
    wrong = [dataclasses.replace(SOUND[0], wrong="a matrix product", tflops=1.0), *SOUND[1:]]
    assert [(bad.rank, bad.why) for bad in judge(wrong, 2.0)] == [(0, "wrong: a matrix product")]


def test_a_rank_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check_rank(ParallelContext.single(), tmp_path)
    assert found.wrong == "" and found.tflops > 0 and found.disk_mb_s > 0 and not list(tmp_path.iterdir())
    real = torch.Tensor.__matmul__

    def broken(a: Any, b: Any) -> Any:
        out = real(a, b)
        if out.dim() == 2:
            out[3, 5] += 1  # one element, by one
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", broken)
    assert check_rank(ParallelContext.single(), tmp_path).wrong == "a matrix product"
    gone = check_rank(ParallelContext.single(), tmp_path / "absent")
    assert "a file in" in gone.wrong and gone.disk_mb_s == 0


def across(config: Config, context: ParallelContext, folder: str) -> Any:
    sound = check_all(context, Path(folder), 1e9)
    real = selfcheck.all_reduce

    def broken(x: torch.Tensor, axis: Any) -> torch.Tensor:
        out = real(x, axis)
        return out + 1 if context.world.rank == 1 else out

    selfcheck.all_reduce = lambda x, axis: x.copy_(broken(x, axis))
    try:
        return sound, check_all(context, Path(folder), 1e9)
    finally:
        selfcheck.all_reduce = real


def test_across_ranks(tmp_path: Path) -> None:
    for ((found, bad), (_, named)), *_ in run_ranks(play, 3, [act(across, tiny(), str(tmp_path))]):
        assert [one.rank for one in found] == [0, 1, 2] and bad == []
        assert all(one.neighbour_gb_s > 0 and one.all_gb_s > 0 for one in found)
        assert [(one.rank, one.why) for one in named] == [(1, "wrong: a sum over all ranks")]


def test_in_a_run(corpus: Path, tmp_path: Path) -> None:
    """Told and gone on with, or the end: no rank can be as fast as asked for here."""
    hard = ("resilience.selfcheck.enabled=true", "resilience.selfcheck.ratio=1.0000000001")
    plays = [
        Play(run_config(corpus, tmp_path / "told", *hard)),
        Play(run_config(corpus, tmp_path / "stopped", *hard, "resilience.selfcheck.bad=stop")),
        Play(run_config(corpus, tmp_path / "off")),
    ]
    for ends in run_ranks(play_runs, 2, plays):
        assert ends[0] == ends[2] == "done"
        assert ends[1].startswith("FailedWork: hosts are wrong or slow: ")
    assert events(tmp_path / "told", "fault") and "slow" in events(tmp_path / "told", "fault")[0]["cause"]
    assert not events(tmp_path / "off", "fault")
