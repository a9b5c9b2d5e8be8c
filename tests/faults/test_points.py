"""A named point does nothing, unless the environment asks for it there, on this rank, at this hit."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from megatrain import faults
from megatrain.config import parse_config
from megatrain.errors import UserError


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
    with pytest.raises(ValueError, match="do=melt is none of kill, crash, full, hang, slow, disconnect"):
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


def test_every_point_of_the_code_can_be_named(tmp_path: Path) -> None:
    """And every name stands somewhere in the code."""
    root = Path(faults.__file__).parent
    files = [*root.rglob("*.py"), *(root.parent / "data_tools").rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.name != "faults.py")
    found = set(re.findall(r'faults\.(?:point|wanted)\(\s*"([a-z.]+)"', text))
    found |= set(re.findall(r'for point in \("([a-z]+)", "([a-z]+)"\)', text)[0])  # of the step's losses
    assert found == set(faults.POINTS)


def test_by_step_and_attempt_and_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=a,rank=0,step=3,do=full")
    for name in ("MEGATRAIN_FAULT_ATTEMPT", "MEGATRAIN_FAULT_STEP"):
        monkeypatch.setenv(name, "")
    faults.arm([{"point": "b", "do": "full", "rank": 1, "hit": 1, "attempt": 2}])
    faults.begin(1)
    faults.now(2)
    faults.point("a", rank=0)
    faults.point("b", rank=1)
    faults.now(3)
    with pytest.raises(OSError):
        faults.point("a", rank=0)
    faults.begin(2)
    faults._hits.clear()
    with pytest.raises(OSError):
        faults.point("b", rank=1)


def test_disconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are shut down, for both ends; files and pipes are not, and no copy of them stays open."""
    monkeypatch.setenv("MEGATRAIN_FAULT", "point=a,do=disconnect")
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server, open(__file__, encoding="utf-8") as file:
        with socket.create_connection(server.getsockname()) as ours:
            theirs, _ = server.accept()
            with theirs:
                faults.point("a", rank=0)
                assert theirs.recv(1) == b"" and ours.recv(1) == b""
        assert file.readline().startswith('"""')
    os.write(writer, b"x")
    os.close(writer)
    assert os.read(reader, 2) == b"x" and os.read(reader, 1) == b"", "the pipe does not end"
    os.close(reader)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("{at: nowhere}", "faults: at (nowhere) is none of forward, step, saved, loss"),
        ("{at: loss, do: kill}", "faults: do (kill) at loss is none of nan, spike"),
        ("{at: step, do: nan}", "faults: do (nan) at step is none of kill, crash"),
    ],
)
def test_wishes_that_cannot_be(fault: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config("", [f"faults=[{fault}]"])
    assert message in str(caught.value)
