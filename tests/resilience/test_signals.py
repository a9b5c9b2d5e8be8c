"""Wishes from outside: who sees which, and when they are taken away."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatrain.resilience.signals import SUPERVISOR_VARIABLE, Wish, Wishes
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


def test_an_orphan_wishes_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever started the ranks is gone: nobody would hear of their end."""
    supervisor = subprocess.Popen(["sleep", "1000"])
    monkeypatch.setenv(SUPERVISOR_VARIABLE, str(supervisor.pid))
    wishes = Wishes([], RunFolder(tmp_path), rank=1)
    assert wishes.now() == Wish()
    supervisor.kill()
    supervisor.wait()
    assert wishes.now() == Wish(preempt=True)
