"""One attempt at a time writes into a run's folder; whoever lost the lease knows it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, write_sealed
from megatrain.resilience import lease as lease_module
from megatrain.resilience import process as process_module
from megatrain.resilience.lease import read_holder, take_lease
from megatrain.resilience.process import Process, this_process
from megatrain.state import RunFolder

ELSEWHERE = Process(1, "1", "another machine")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(lease_module, "GRACE_S", 0.2)
    monkeypatch.setattr(lease_module, "POLL_S", 0.02)
    return RunFolder(tmp_path / "run")


def held_elsewhere(folder: RunFolder, age_s: float) -> None:
    """As a rank of another machine left it, so many seconds ago."""
    tree = json.loads(folder.lease.read_text())
    tree |= {"process": dataclasses.asdict(ELSEWHERE), "released": False, "key": "theirs", "host": "far"}
    write_sealed(folder.lease, tree)
    then = time.time() - age_s
    os.utime(folder.lease, (then, then))


def test_attempts_are_numbered_and_the_run_keeps_its_name(folder: RunFolder) -> None:
    names, attempts = set(), []
    for _ in range(3):
        lease = take_lease(folder, 0.5)
        assert lease.lost() is None
        attempts.append(lease.attempt)
        names.add(lease.run)
        lease.release()
    assert attempts == [1, 2, 3] and len(names) == 1
    assert [path.name for path in (folder.root / "attempts").iterdir()] == ["00003"]


def test_a_run_in_use_is_left_alone(folder: RunFolder) -> None:
    """By a process of this machine that lives, however old its lease is."""
    lease = take_lease(folder, 0.3)
    with pytest.raises(UserError, match=rf"in use .*process {os.getpid()}.*; stop it \(touch .*STOP\)"):
        take_lease(folder, 0.3)
    assert lease.lost() is None
    lease.release()
    take_lease(folder, 0.3).release()


def test_who_was_killed_is_followed_at_once(folder: RunFolder) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom megatrain.resilience.lease import take_lease\n"
        "from megatrain.state import RunFolder\n"
        "print(take_lease(RunFolder(Path(sys.argv[1])), 60).attempt, flush=True)\nos.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program, str(folder.root)], cwd=root, capture_output=True)
    assert ended.stdout == b"1\n" and ended.returncode == -9
    holder = read_holder(folder)
    assert holder is not None and holder.process.has_ended() and not holder.released
    started = time.monotonic()
    lease = take_lease(folder, 60)
    assert lease.attempt == 2 and time.monotonic() - started < 20, "not after the 60 s"
    lease.release()


def test_another_machines_lease_runs_out(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    take_lease(folder, 0.5).release()
    held_elsewhere(folder, age_s=0)
    with monkeypatch.context() as patch:
        patch.setattr(lease_module, "GRACE_S", -59.9)  # gives up at once; the lease is good for a minute
        with pytest.raises(UserError, match=r"in use .* on far"):
            take_lease(folder, 60)
    held_elsewhere(folder, age_s=100)
    lease = take_lease(folder, 60)
    assert lease.attempt == 2
    lease.release()


def test_a_stale_attempt_knows_that_it_lost(folder: RunFolder) -> None:
    """It was cut off for longer than its lease, another attempt went on; its own renewals change nothing."""
    stale = take_lease(folder, 0.3)
    tree = json.loads(folder.lease.read_text())
    write_sealed(folder.lease, {**tree, "key": "newer", "attempt": 2, "host": "far"})
    assert "attempt (1) lost its lease on the run, now held by attempt 2 on far" in str(stale.lost())
    time.sleep(0.4)
    stale.release()
    assert json.loads(folder.lease.read_text())["key"] == "newer"
    folder.lease.unlink()
    assert "now held by nobody" in str(stale.lost())


def test_it_is_renewed(folder: RunFolder) -> None:
    lease = take_lease(folder, 0.3)
    before = folder.lease.stat().st_mtime_ns
    deadline = time.monotonic() + 30
    while folder.lease.stat().st_mtime_ns == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert folder.lease.stat().st_mtime_ns > before
    lease.release()


def test_of_many_starts_at_once_one_wins(folder: RunFolder) -> None:
    """Each number is claimed once, and the losers wait for the winner's lease."""
    got, refused = [], []

    def start() -> None:
        try:
            got.append(take_lease(folder, 0.4))
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 5
    got[0].release()


def test_a_claim_whose_claimer_died_is_passed_over(folder: RunFolder) -> None:
    (folder.root / "attempts").mkdir(parents=True)
    claim = folder.root / "attempts" / "00001"
    claim.touch()
    os.utime(claim, (1, 1))
    lease = take_lease(folder, 0.5)
    assert lease.attempt == 2
    lease.release()


def test_what_is_no_lease(folder: RunFolder) -> None:
    take_lease(folder, 0.5).release()
    tree = json.loads(folder.lease.read_text())
    write_sealed(folder.lease, {**tree, "version": 9})
    with pytest.raises(UserError, match="version 9 is newer"):
        read_holder(folder)
    old = {name: value for name, value in tree.items() if name != OWN_HASH} | {"version": 1}
    process = old["process"]
    for change in (
        {"more": 1},
        {"version": 2},
        {"version": "1"},
        {"attempt": "1"},
        {"attempt": 0},
        {"released": 0},
        {"renewed": "now"},
        {"process": []},
        {"process": {**process, "pid": -1}},
        {"process": {**process, "world": None}},
    ):
        folder.lease.write_text(json.dumps({**old, **change}))
        with pytest.raises(FailedWork, match=r"lease\.json: damaged: "):
            read_holder(folder)
    for text in ("{", "[]", '{"version": 1}', "[" * 9000):
        folder.lease.write_text(text)
        with pytest.raises(FailedWork, match=r"lease\.json: damaged: "):
            read_holder(folder)
    folder.lease.write_text(json.dumps(old))  # as a version before wrote it
    holder = read_holder(folder)
    assert holder is not None and holder.attempt == 1
    folder.lease.unlink()
    os.mkfifo(folder.lease)
    with pytest.raises(FailedWork, match="is not a regular file"):
        read_holder(folder)
    folder.lease.unlink()
    folder.lease.mkdir()
    with pytest.raises(UserError, match="is a folder; remove it"):
        take_lease(folder, 0.5)


def test_a_damaged_lease_neither_ends_its_holder_nor_lets_two_run(folder: RunFolder) -> None:
    """The holder, who claimed the highest number, writes it again; once a higher one is claimed it has
    lost."""
    lease = take_lease(folder, 0.6)
    sound = folder.lease.read_bytes()
    folder.lease.write_bytes(sound.replace(b'"attempt": 1', b'"attempt": 3'))
    assert lease.lost() is None
    with pytest.raises(UserError, match=rf"in use .*attempt 1, process {os.getpid()}"):
        take_lease(folder, 0.6)
    deadline = time.monotonic() + 30
    while b'"attempt": 3' in folder.lease.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert read_holder(folder) is not None, "it was written again at the next renewal"
    lease._ended.set()
    lease._thread.join()
    (folder.root / "attempts" / "00002").touch()
    (folder.root / "attempts" / "²").touch()
    folder.lease.write_bytes(sound[:-9])
    assert "this attempt (1) lost its lease on the run, 2 was claimed since" in str(lease.lost())
    lease.release()
    assert folder.lease.read_bytes() == sound[:-9]


def test_a_damaged_lease_of_a_run_that_ended_costs_neither_its_number_nor_its_name(folder: RunFolder) -> None:
    first = take_lease(folder, 0.3)
    first.release()
    folder.lease.write_bytes(folder.lease.read_bytes()[:-30])
    second = take_lease(folder, 0.3)
    assert second.attempt == 2 and second.run == first.run and second.lost() is None
    second.release()


def test_processes() -> None:
    ours = this_process()
    assert not ours.has_ended()
    assert not ELSEWHERE.has_ended(), "nobody knows"
    assert dataclasses.replace(ours, started="1").has_ended(), "its number was given out again"
    child = subprocess.Popen(["sleep", "1000"])
    there = Process(child.pid, process_module._started(child.pid), ours.world)
    assert not there.has_ended()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert there.has_ended(), "a zombie has ended"
    child.wait()
    assert there.has_ended()


def test_the_fence_reads_nothing_while_renewals_succeed_and_notices_every_other_holder(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped for as long as another one may take its run over looks before it writes."""
    now = [1000.0]
    lease = take_lease(folder, 60)
    lease.release()  # its thread: here nothing renews
    lease = take_lease(folder, 60)
    monkeypatch.setattr(lease, "_clock", lambda: now[0])
    lease.fence()
    lease._renewed_at = now[0]
    reads = []
    monkeypatch.setattr(lease, "lost", lambda: reads.append(1))
    for _ in range(1000):
        lease.fence()
        now[0] += 0.02
    assert not reads
    monkeypatch.undo()
    monkeypatch.setattr(lease, "_clock", lambda: now[0])
    now[0] += 61
    text = folder.lease.read_text()
    folder.lease.write_text("{")
    lease.fence()  # damaged, and nobody has claimed a higher number
    attempts = folder.root / "attempts"
    attempts.rename(folder.root / "away")
    attempts.touch()
    with pytest.raises(OSError, match="Not a directory"):
        lease.fence()
    attempts.unlink()
    (folder.root / "away").rename(attempts)
    folder.lease.write_text(text)
    lease.fence()
    held_elsewhere(folder, 0)
    for _ in range(2):
        with pytest.raises(
            FailedWork, match=r"attempt \(2\) lost its lease on the run, now held by .* on far"
        ):
            lease.fence()
        lease._renewed_at = now[0]
    lease.release()


def test_attempts_never_fall(folder: RunFolder) -> None:
    """What the highest attempt logged is what counts, also where somebody removed lease.json, as errors
    advise."""
    lease = take_lease(folder, 0.5)
    lease.release()
    folder.lease.unlink()
    lease = take_lease(folder, 0.05)
    lease.release()
    assert lease.attempt == 2
    folder.lease.unlink()
    for path in (folder.root / "attempts").iterdir():
        path.unlink()
    folder.metrics.write_text('{"step": 1, "attempt": 6}\n{"attempt": "9"}\n{"attempt"')
    lease = take_lease(folder, 0.5)
    lease.release()
    assert lease.attempt == 7
