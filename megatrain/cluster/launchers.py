"""Starting the ranks on this machine by a launcher, and ending them in good order.

Launchers hide exit codes and lose signals: so the ranks write their pids and rank 0 its exit code into a
folder that the
supervisor made, and the supervisor sends signals to the ranks themselves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import megatrain
from megatrain.config import Config
from megatrain.errors import require
from megatrain.resilience.signals import SUPERVISOR_VARIABLE
from megatrain.train.main import EXIT_FILE, PREEMPTED, STATUS_VARIABLE

GRACE_S = 120.0
"""How long the ranks may take to save after a signal, before they are killed."""


def local_world(config: Config) -> int:
    """How many ranks this machine gets: as configured, else one a GPU, else as few as the layout allows."""
    import torch

    return config.cluster.processes or torch.cuda.device_count() or config.parallel.tensor


def launch(
    config: Config,
    config_path: Path,
    overrides: Sequence[str],
    world: int,
    *,
    variables: Mapping[str, str] | None = None,
    output: BinaryIO | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Run `launch/pretrain.py` on `world` ranks of this machine to its end; returns the run's exit code.

    SIGINT and SIGTERM are passed to the ranks, which save and stop (75); a second one ends them at once.
    The ranks get these environment variables besides ours, and write to `output` instead of the terminal;
    `meanwhile` is called some times a second. Raises UserError when the port is taken.
    """
    port = config.cluster.master_port or _free_port()
    require(
        _is_free(port),
        f"cluster.master_port ({port}) is in use on this machine; choose another or leave it out",
    )
    program = Path(megatrain.__file__).parents[1] / "launch" / "pretrain.py"
    arguments = [str(program), "--config", str(config_path), *overrides]
    with tempfile.TemporaryDirectory(prefix="megatrain-") as status:
        import torch

        environment = {
            **({} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}),
            **os.environ,
            **(variables or {}),
            STATUS_VARIABLE: status,
            SUPERVISOR_VARIABLE: str(os.getpid()),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(_threads(config, world))),
        }
        # A session of its own: Ctrl-C reaches us alone, and the ranks in good order through us.
        process = subprocess.Popen(
            [sys.executable, "-m", *_launcher(config, world, port), *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        asked = _wait(process, Path(status), meanwhile)
        exit_file = Path(status) / EXIT_FILE
        if exit_file.exists():
            return int(exit_file.read_text())
        return PREEMPTED if asked else 1


def _launcher(config: Config, world: int, port: int) -> list[str]:
    match config.cluster.launcher:
        case "deepspeed":
            command = ["deepspeed.launcher.runner", "--num_gpus", str(world), "--master_port", str(port)]
            return [*command, "--hostfile", os.devnull, "--no_local_rank", "--quiet"]
        case "torchrun":
            command = ["torch.distributed.run", "--nproc-per-node", str(world), "--master-port", str(port)]
            return [*command, "--master-addr", "127.0.0.1"]


def _wait(process: subprocess.Popen[bytes], status: Path, meanwhile: Callable[[], None]) -> bool:
    """Until the launcher and all ranks have ended; True if a signal asked for it."""
    asked: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {
        number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    }
    told, deadline = 0, float("inf")
    try:
        while process.poll() is None:
            if len(asked) > told:
                told = len(asked)
                ranks = _ranks(status)
                if not ranks or told > 1:
                    _end(process, ranks)
                for pid in ranks:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                deadline = time.monotonic() + GRACE_S
            if time.monotonic() > deadline:
                _end(process, _ranks(status))
            meanwhile()
            time.sleep(0.1)
        for pid in _ranks(status):  # a launcher that was killed leaves its ranks behind
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return bool(asked)


def _end(process: subprocess.Popen[bytes], ranks: Sequence[int]) -> None:
    for pid in ranks:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _ranks(status: Path) -> list[int]:
    """Pids of the ranks that have begun and not ended."""
    return [int(path.name.removeprefix("pid-")) for path in status.glob("pid-*")]


def _threads(config: Config, world: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.train.threads or max(1, cores // world)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
