"""What a thread waits in collectives is timed, all of it and nothing else."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatrain.parallel.collectives import finish
from megatrain.resilience import waiting
from megatrain.resilience.waiting import Waits, timed_waits
from megatrain.resilience.watchdog import whereabouts
from tests.distributed.ranks import init_gloo, run_ranks

LATE_S = 1.0


def waited(rank: int, folder: str) -> tuple[dict[str, float], Waits, bool]:
    """By collective, what this rank waits for the other, which comes late; what another thread adds to it;
    and whether the clock is gone at the end."""
    init_gloo()
    x, real, found = torch.ones(4), dist.Work.wait, {}
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(x),
        "all_gather": lambda: dist.all_gather([torch.empty(4), torch.empty(4)], x),
        "object": lambda: dist.broadcast_object_list([rank], src=1),
        "barrier": dist.barrier,
        "begun before": lambda: finish(dist.all_reduce(x, async_op=True)),
    }
    with timed_waits() as waits:
        for name, call in calls.items():
            dist.barrier()
            before = waits.seconds
            if rank == 0:
                Path(folder, name).touch()
            else:
                while not Path(folder, name).exists():
                    time.sleep(0.001)
                time.sleep(LATE_S)
            call()
            found[name] = waits.seconds - before
        own = dataclasses.replace(waits)
        thread = threading.Thread(target=dist.barrier)
        thread.start()
        thread.join()
        more = Waits(waits.seconds - own.seconds, waits.count - own.count)
    return found, more, dist.Work.wait is real


def test_a_rank_that_waits_for_another(tmp_path: Path) -> None:
    """The one that comes late does not wait: it is the one that is waited for."""
    early, late = run_ranks(waited, 2, str(tmp_path))
    for name, seconds in early[0].items():
        assert seconds > LATE_S / 4 and seconds > late[0][name], name
    for _, other_thread, restored in (early, late):
        assert other_thread == Waits() and restored


class Late:
    """A collective that is over a second after it was looked at, or fails then."""

    def __init__(self, clock: list[float], *, fails: bool = False) -> None:
        self.clock, self.fails = clock, fails
        self.seen: list[tuple[str, str]] = []

    def wait(self) -> bool:
        return dist.Work.wait(self)  # type: ignore[arg-type]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def real(work: Late) -> bool:
        now[0] += 1.0
        work.seen.append(whereabouts(sys._getframe()))
        if work.fails:
            raise RuntimeError("aborted")
        return True

    monkeypatch.setattr(dist.Work, "wait", real)
    monkeypatch.setattr(waiting.time, "perf_counter", lambda: now[0])
    return now


def test_each_wait_is_timed_also_one_that_fails(clock: list[float]) -> None:
    with timed_waits() as waits:
        assert Late(clock).wait()
        with pytest.raises(RuntimeError, match="aborted"):
            Late(clock, fails=True).wait()
        clock[0] += 5.0  # own work
        assert Late(clock).wait() and waits == Waits(3.0, 3)
    Late(clock).wait()
    assert waits == Waits(3.0, 3), "nobody listens any more"


def test_the_watchdog_sees_through_it(clock: list[float]) -> None:
    late = Late(clock)
    with timed_waits():
        finish(late)  # type: ignore[arg-type]
    ((collective, place),) = late.seen
    assert collective == "finish" and place.startswith("parallel/collectives.py:")
