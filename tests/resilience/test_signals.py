"""Wishes from outside: who sees which, and when they are taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatrain.resilience.control import Control
from megatrain.resilience.signals import Wish, Wishes
from megatrain.state import RunFolder


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_configured_signal_is_a_wish_on_any_rank(tmp_path: Path) -> None:
    wishes = Wishes(["SIGUSR1", "SIGUSR2"], RunFolder(tmp_path), rank=3)
    assert wishes.now() == Wish()
    os.kill(os.getpid(), signal.SIGUSR2)
    assert wishes.now() == Wish(preempt=True)
    wishes.granted(save=True, stop=True)
    assert wishes.now() == Wish(preempt=True), "it stays: the run is to end"


def test_files_are_wishes_on_rank_0_and_go_when_granted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first, second = Wishes([], folder, rank=0), Wishes([], folder, rank=1)
    folder.stop_file.touch()
    folder.save_file.touch()
    assert first.now() == Wish(stop=True, save=True)
    assert second.now() == Wish(), "one rank looks, so that all act at the same step"
    assert second.now(stop=True) == Wish(stop=True), "the config's wish is every rank's"
    second.granted(save=True, stop=True)
    first.granted(save=True, stop=False)
    assert first.now() == Wish(stop=True)
    first.granted(save=False, stop=True)
    assert first.now() == Wish() and list(tmp_path.iterdir()) == []


def test_a_signal_that_asks_for_a_save_alone(tmp_path: Path) -> None:
    wishes = Wishes([], RunFolder(tmp_path), rank=3, save_signal="SIGUSR2")
    os.kill(os.getpid(), signal.SIGUSR2)
    assert wishes.now() == Wish(save=True)
    wishes.granted(save=False, stop=False)
    assert wishes.now() == Wish(save=True)
    wishes.granted(save=True, stop=False)
    assert wishes.now() == Wish() and wishes.waiting_s() == 0


def test_the_supervisor_asks_by_a_file(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    control.open()
    first, second = (Wishes([], RunFolder(tmp_path), rank, control=control) for rank in (0, 1))
    assert first.now() == second.now() == Wish()
    control.ask("preempt")
    assert first.now() == Wish(preempt=True) and first.waiting_s() >= 0
    assert second.now() == Wish(), "one rank looks, the collective tells the others"


def test_an_orphan_wishes_to_end(tmp_path: Path) -> None:
    """Whoever started the ranks is gone: nobody would hear of their end."""
    control = Control(tmp_path / "control")
    program = (
        "import sys\nfrom pathlib import Path\nfrom megatrain.resilience.control import Control\n"
        "Control(Path(sys.argv[1])).open()\nprint(flush=True)\nsys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program, str(control.folder)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert supervisor.stdout is not None and supervisor.stdout.readline() == b"\n"
    wishes = Wishes([], RunFolder(tmp_path), rank=0, control=control)
    assert wishes.now() == Wish()
    supervisor.kill()
    supervisor.communicate()
    assert wishes.now() == Wish(preempt=True)


def test_a_request_may_be_anything_and_one_that_stays_is_granted_once(tmp_path: Path) -> None:
    """A folder, a FIFO, a link to nothing; a file system that does not answer asks for nothing."""
    folder = RunFolder(tmp_path)
    wishes = Wishes([], folder, 0)
    (folder.save_file / "inside").mkdir(parents=True)
    (folder.stop_file).symlink_to(tmp_path / "nothing")
    assert wishes.now().save and wishes.now().stop
    wishes.granted(save=True, stop=True)
    assert folder.save_file.is_dir() and not folder.stop_file.is_symlink()
    assert not wishes.now().save and not wishes.now().stop
    os.mkfifo(folder.stop_file)
    assert wishes.now().stop
    wishes.granted(save=False, stop=True)
    assert not wishes.now().stop
    (tmp_path / "file").touch()
    assert not Wishes([], RunFolder(tmp_path / "file"), 0).now().stop
    assert not Wishes([], RunFolder(tmp_path / ("x" * 300)), 0).now().save
