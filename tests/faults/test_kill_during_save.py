"""kill -9 in a save, a full disk, damaged checkpoints: the run goes on from the newest whole one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megatrain.checkpoint.manifest import SEAL_BYTES, sealed_text
from megatrain.config import Config
from tests.distributed.corpus import Play, curve, events, play_runs, run_config, saved_steps
from tests.distributed.ranks import RankFailure, run_ranks

# The other rank, whose collective breaks, may be noticed first.
KILLED = r"died with exit code -9|Connection (closed|reset) by peer"


def config_of(corpus: Path, folder: Path, *overrides: str) -> Config:
    """A constant learning rate: a run that is killed in its first steps may have been meant to be longer."""
    return run_config(corpus, folder, "schedule.kind=constant", "checkpoint.every=3", *overrides)


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps with checkpoints at 6, 9 and 10."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert run_ranks(play_runs, 2, [Play(config_of(corpus, folder))]) == [["done"]] * 2
    assert saved_steps(folder) == [6, 9, 10]
    return folder


# Where a rank is killed, and which: in the second save, whose step is 6; in pruning, step 9 removes step 3.
POINTS = {
    "write": ("checkpoint.write", 1, 2),
    "written": ("checkpoint.written", 1, 2),
    "commit": ("checkpoint.commit", 0, 2),
    "committed": ("checkpoint.committed", 0, 2),
    "prune": ("checkpoint.prune", 0, 1),
}


def kill_at_point(corpus: Path, folder: Path, name: str) -> None:
    point, rank, hit = POINTS[name]
    fault = f"point={point},rank={rank},hit={hit},do=kill"
    play = Play(config_of(corpus, folder, "checkpoint.keep=2"), fault=fault)
    with pytest.raises(RankFailure, match=KILLED):
        run_ranks(play_runs, 2, [play])


def kill_at_random(corpus: Path, folder: Path) -> None:
    """From outside, one rank or all at once, at a random moment of a save after each step."""
    folder.mkdir()
    config = config_of(corpus, folder, "checkpoint.every=1", "train.steps=200")
    draw = random.Random(os.urandom(8))
    after_step, wait_s = draw.randint(2, 6), draw.random() * 0.02
    ranks = draw.choice(([0], [1], [0, 1]))
    print(f"kill ranks {ranks} {wait_s:.4f} s into the save of step {after_step}")

    def strike() -> None:
        target = folder / "checkpoints" / f"step-{after_step:08d}"
        deadline = time.monotonic() + 200
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(wait_s)
        for rank in ranks:
            os.kill(int((folder / f"pid-{rank}").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(RankFailure, match=KILLED):
        run_ranks(play_runs, 2, [Play(config)], str(folder))
    thread.join()


def test_killed_in_a_save(corpus: Path, unbroken: Path, tmp_path: Path) -> None:
    """What is not committed does not exist; the run goes on and equals the unbroken one."""
    randoms = [f"random-{n}" for n in range(int(os.environ.get("RANDOM_KILLS", "3")))]
    for name in POINTS:
        kill_at_point(corpus, tmp_path / name, name)
    for name in randoms:
        kill_at_random(corpus, tmp_path / name)
    before = {name: saved_steps(tmp_path / name) for name in (*POINTS, *randoms)}
    assert [before[name] for name in POINTS] == [[3], [3], [3], [3, 6], [3, 6, 9]]
    for name in ("write", "written", "commit"):
        left = tmp_path / name / "checkpoints" / "step-00000006"
        assert left.is_dir() and not (left / "MANIFEST.json").exists()
    # Another rhythm for some, so that the unfinished step 6 is not written again, but cleaned up.
    every = {"written": 7}
    plays = [
        Play(config_of(corpus, tmp_path / name, f"checkpoint.every={every.get(name, 3)}")) for name in before
    ]
    assert run_ranks(play_runs, 2, plays) == [["done"] * len(plays)] * 2
    for name, steps in before.items():
        assert curve(tmp_path / name) == curve(unbroken), name
        (resumed,) = events(tmp_path / name, "resume")
        assert resumed["step"] == steps[-1] >= 1, name
        assert saved_steps(tmp_path / name)[-1] == 10
        for path in (tmp_path / name / "checkpoints").iterdir():
            manifest = json.loads((path / "MANIFEST.json").read_text())
            wanted = {"MANIFEST.json", *(file["name"] for file in manifest["files"])}
            assert {inner.name for inner in path.iterdir()} == wanted, "rubbish stays"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def rank_file(checkpoint: Path) -> Path:
    return sorted(checkpoint.glob("*.safetensors"))[1]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flip": (lambda c: flip(rank_file(c)), "hash differs"),
    "cut": (lambda c: cut(rank_file(c)), "bytes, not"),
    "gone": (lambda c: rank_file(c).unlink(), "No such file"),
    "manifest": (lambda c: cut(c / "MANIFEST.json"), "not a sound manifest"),
}


def test_damage_and_a_full_disk(corpus: Path, unbroken: Path, tmp_path: Path) -> None:
    """A damaged checkpoint is passed over, named, and the one before it used; without one the run ends.

    A save that fails is an event, the run goes on, and the next save is fine.
    """
    plays = []
    for name, (damage, _) in DAMAGES.items():
        shutil.copytree(unbroken, tmp_path / name)
        damage(tmp_path / name / "checkpoints" / "step-00000010")
        plays.append(Play(config_of(corpus, tmp_path / name)))
    shutil.copytree(unbroken, tmp_path / "all")
    for path in (tmp_path / "all" / "checkpoints").iterdir():
        flip(rank_file(path))
    plays.append(Play(config_of(corpus, tmp_path / "all")))
    shutil.copytree(unbroken, tmp_path / "newer")
    newest = tmp_path / "newer" / "checkpoints" / "step-00000010" / "MANIFEST.json"
    newer = newest.read_bytes()[:-SEAL_BYTES].replace(b'"version":3', b'"version":99', 1)
    newest.write_bytes(sealed_text(newer))
    plays.append(Play(config_of(corpus, tmp_path / "newer")))
    for name, point, rank in (("full-write", "write", 1), ("full-commit", "commit", 0)):
        fault = f"point=checkpoint.{point},rank={rank},do=full"
        plays.append(Play(config_of(corpus, tmp_path / name), fault=fault))
    for name, hit, every in (("full-last", "4+", 3), ("full-retry", "1", 100), ("full-end", "4", 3)):
        fault = f"point=checkpoint.write,rank=1,hit={hit},do=full"
        options = ("checkpoint.retry_s=1e-3", f"checkpoint.every={every}")
        touch = {1: "SAVE"} if name == "full-retry" else {}
        plays.append(Play(config_of(corpus, tmp_path / name, *options), fault=fault, touch=touch))

    ends, others = run_ranks(play_runs, 2, plays)
    assert ends == others, "all ranks come to the same end"
    assert ends[:4] == ["done"] * 4
    for name, (_, what) in DAMAGES.items():
        (fault,) = events(tmp_path / name, "fault")
        assert "checkpoint passed over: step-00000010: " in fault["cause"] and what in fault["cause"]
        assert events(tmp_path / name, "resume")[-1]["step"] == 9
        assert curve(tmp_path / name) == curve(unbroken)
    assert ends[4].startswith("FailedWork: ") and "no checkpoint is whole" in ends[4]
    assert "rank-00001" in ends[4] and "\n" not in ends[4]
    assert events(tmp_path / "all", "fail")[0]["cause"] == ends[4].removeprefix("FailedWork: ")
    assert ends[5].startswith("UserError: ") and "version 99 is newer" in ends[5]

    assert ends[6:8] == ["done", "done"]
    for name in ("full-write", "full-commit"):
        (fault,) = events(tmp_path / name, "fault")
        assert fault["step"] == 3 and "No space left on device" in fault["cause"]
        assert [event["step"] for event in events(tmp_path / name, "commit")] == [6, 9, 10]
        assert curve(tmp_path / name) == curve(unbroken)
    assert ends[8].startswith("FailedWork: ") and "No space left on device" in ends[8]
    assert saved_steps(tmp_path / "full-last") == [3, 6, 9]
    assert len(events(tmp_path / "full-last", "fault")) == 3, "the end is tried again at once"
    (fail,) = events(tmp_path / "full-last", "fail")
    assert fail["step"] == 10 and ends[8] == f"FailedWork: {fail['cause']}"
    assert not list((tmp_path / "full-last").glob("checkpoints/step-00000010/*")), "room is given back"
    # A save that failed is tried again before the next regular one; at the end, at once.
    assert ends[9:] == ["done", "done"]
    (failed,) = events(tmp_path / "full-retry", "fault")
    again, last = [event["step"] for event in events(tmp_path / "full-retry", "commit")]
    assert failed["step"] == 2 and 2 < again < last == 10
    assert [event["step"] for event in events(tmp_path / "full-end", "commit")] == [3, 6, 9, 10]
