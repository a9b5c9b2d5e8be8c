"""The harness itself: results, failures, hangs, and that it leaves nothing behind."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.ranks import RankFailure, reserve_port, run_ranks


def describe(rank: int, word: str) -> dict[str, Any]:
    import torch

    print(f"{word} from rank {rank}")
    return {
        "rank": rank,
        "word": word,
        "variables": [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE")],
        "mine": os.environ.get("RANKS_TEST"),
        "folder": os.getcwd(),
        "threads": torch.get_num_threads(),
        "tensor": torch.full((2, 3), float(rank)),
    }


def test_results_come_back_by_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = run_ranks(describe, 3, "hello", env={"RANKS_TEST": "yes"})
    for rank, result in enumerate(results):
        assert result["rank"] == rank
        assert result["variables"] == [str(rank), str(rank), "3", "3"]
        assert (result["word"], result["mine"], result["threads"]) == ("hello", "yes", 1)
        assert result["folder"] == str(tmp_path)
        assert result["tensor"].tolist() == [[float(rank)] * 3] * 2
    assert "--- output of rank 2 ---\nhello from rank 2" in capfd.readouterr().out


def fail_on_one(rank: int, folder: str) -> None:
    Path(folder, str(rank)).write_text(str(os.getpid()))
    if rank == 1:
        child = subprocess.Popen(["sleep", "1000"])
        Path(folder, "child").write_text(str(child.pid))
        while len(list(Path(folder).iterdir())) < 4:
            time.sleep(0.01)
        print("about to fail")
        raise ValueError("this rank is broken")
    time.sleep(1000)


def die_on_one(rank: int) -> int:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 2:
        time.sleep(1000)
    return rank


def hang_on_one(rank: int) -> int:
    if rank == 1:
        threading.Event().wait()
    return rank


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_exception_is_reported_and_all_ranks_end(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(RankFailure, match="this rank is broken") as caught:
        run_ranks(fail_on_one, 3, str(tmp_path), timeout_s=100)
    assert time.monotonic() - start < 60
    assert caught.value.rank == 1
    assert "in fail_on_one" in str(caught.value)
    assert "about to fail" in str(caught.value)
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert len(pids) == 4
    time.sleep(0.2)  # the sleeping grandchild is not ours to wait for
    assert [pid for pid in pids if alive(pid)] == []


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(RankFailure, match="rank 1 died with exit code -9") as caught:
        run_ranks(die_on_one, 3)
    assert caught.value.exit_codes == {0: -9, 1: -9, 2: -9}
    assert caught.value.results in ({}, {0: 0})


def test_a_hang_ends_at_the_time_out_with_stacks() -> None:
    start = time.monotonic()
    with pytest.raises(RankFailure, match=r"no answer within 3 s from rank 1") as caught:
        run_ranks(hang_on_one, 2, timeout_s=3)
    assert time.monotonic() - start < 30
    assert caught.value.rank is None
    assert "in hang_on_one" in str(caught.value)


def zero_one(rank: int) -> dict[str, Any]:
    import sys

    from tests.distributed.ranks import init_gloo

    modules = set(sys.modules)
    threads = len(list(Path("/proc/self/task").iterdir()))
    init_gloo(timeout_s=60)
    import deepspeed
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    settings = {
        "train_batch_size": 4,
        "train_micro_batch_size_per_gpu": 4 // int(os.environ["WORLD_SIZE"]),
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    rows = torch.arange(32, dtype=torch.float32).reshape(4, 8) / 32
    mine = rows.chunk(int(os.environ["WORLD_SIZE"]))[rank]
    losses = []
    for _ in range(3):
        loss = engine(mine).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    torch.distributed.barrier()
    return {"losses": losses, "threads": threads, "imported": sorted(set(sys.modules) - modules)}


@pytest.mark.parametrize("world_size", [2, 4])
def test_deepspeed_trains_and_leaves_nothing_behind(world_size: int) -> None:
    shared = set(os.listdir("/dev/shm"))
    start = time.monotonic()
    results = run_ranks(zero_one, world_size, timeout_s=100)
    print(f"{world_size} ranks: {time.monotonic() - start:.1f} s")
    for result in results:
        assert result["losses"][2] < result["losses"][0]
        assert result["threads"] == 1, "the fork server must not have started threads"
        # Whatever DeepSpeed imports late, each rank would pay for in every test: add it to WARM.
        heavy = ("torch._dynamo", "torch._inductor", "deepspeed.runtime.zero.muon", "transformers", "triton")
        assert [name for name in result["imported"] if name.startswith(heavy)] == []
    assert set(os.listdir("/dev/shm")) - shared == set()


def test_a_reserved_port_is_given_to_nobody_else() -> None:
    ports = [reserve_port() for _ in range(20)]
    assert len(set(ports)) == 20
