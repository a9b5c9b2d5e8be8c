"""Work over processes: in order, errors handed on, killed processes noticed, none left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_tools.workers import pool
from megatrain.errors import FailedWork, UserError


def test_order_errors_and_killed_processes() -> None:
    with pool(2) as over:
        assert list(over(abs, range(-40, 0))) == list(range(40, 0, -1))
        with pytest.raises(UserError, match="bad input"):
            list(over(_raise, ["bad input"]))
    with pytest.raises(FailedWork, match="a worker process was killed"), pool(2) as over:
        list(over(_die, [1, 2, 3]))
    with pool(1) as over:
        assert next(over(_own_id, [0])) == os.getpid()


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import time, os; from data_tools.workers import pool\n"
        "from tests.data_tools.test_workers import _own_id, _sleep\n"
        "if __name__ == '__main__':\n"
        "    with pool(2) as over:\n"
        "        print(next(over(_own_id, [0])), flush=True)\n"
        "        list(over(_sleep, [60, 60]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen([sys.executable, str(script)], stdout=-1, stderr=-3, env=environment)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)
    process.stdout.close()


def _raise(message: str) -> None:
    raise UserError(message)


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _own_id(_: int) -> int:
    return os.getpid()


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
