"""A named point does nothing, unless the environment asks for it there, on this rank, at this hit."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from megatrain import faults


@pytest.fixture(autouse=True)
def clean() -> None:
    faults._hits.clear()


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGATRAIN_FAULT", raising=False)
    faults.point("checkpoint.write", rank=0)
    assert not faults._hits


def test_only_there_then_and_on_that_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=a,rank=1,hit=2,do=full")
    faults.point("a", rank=1)
    faults.point("b", rank=1)
    with pytest.raises(OSError) as caught:
        faults.point("a", rank=1)
    assert caught.value.errno == errno.ENOSPC
    faults.point("a", rank=1)
    faults._hits.clear()
    for _ in range(3):
        faults.point("a", rank=0)


def test_what_only_the_caller_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGATRAIN_FAULT", raising=False)
    assert faults.wanted("loss", rank=1) is None and not faults._hits
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=loss,rank=1,hit=2,do=nan")
    assert [faults.wanted("loss", rank=1) for _ in range(3)] == [None, "nan", None]
    faults._hits.clear()
    assert [faults.wanted("loss", rank=0) for _ in range(3)] == [None] * 3


def test_crash_and_a_wrong_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=a,do=crash")
    with pytest.raises(faults.InjectedFault, match="asked for at a"):
        faults.point("a", rank=5)
    faults._hits.clear()
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=a,do=melt")
    with pytest.raises(ValueError, match="do=melt is none of kill, crash, full, hang, slow"):
        faults.point("a", rank=5)


def test_kill() -> None:
    program = "from megatrain import faults; faults.point('a', rank=0); print('survived')"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"MEGATRAIN_FAULT": "point=a", "PATH": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert ended.returncode == -9 and ended.stdout == b""
