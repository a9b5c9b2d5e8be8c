"""The harness of multi-rank tests: runs one function on every rank, in processes forked from a warm parent.

Importing torch and DeepSpeed takes seconds, a fork of a process that has imported them takes milliseconds.
The fork server is therefore started once for a pytest process and imports them, but computes nothing: a
process that has started torch's threads must not be forked.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

# Imported by the fork server. torch._dynamo and the Muon module are what deepspeed.initialize would otherwise
# import by itself, in every rank. Nothing of megatrain: a module that is half written would stop the server.
WARM = (
    "torch",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.device_mesh",
    "torch.distributed.tensor",
    "torch.utils.checkpoint",
    "torch.utils.flop_counter",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.muon.original_muon",
    "numpy",
    "pyarrow",
    "pyarrow.ipc",
    "pydantic",
    "pytest",
    "safetensors.torch",
    "sentencepiece",
    "xxhash",
    "yaml",
)
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
LOG_TAIL_CHARACTERS = 12_000
STACK_DUMP_S = 2.0


class RankFailure(AssertionError):
    """A rank raised, died or hung. The message has its traceback and the end of every rank's output.

    `rank` is the first rank that failed; it is None when the time ran out. `exit_codes` has the exit code of
    every rank (-9 for those that the harness ended), `results` what the ranks that finished returned.
    """

    def __init__(
        self, message: str, rank: int | None, exit_codes: dict[int, int | None], results: dict[int, Any]
    ) -> None:
        super().__init__(message)
        self.rank = rank
        self.exit_codes = exit_codes
        self.results = results


class _Place(NamedTuple):
    """What one rank is told about its surroundings."""

    rank: int
    environment: dict[str, str]
    folder: str
    log: str


class _Outcome(NamedTuple):
    result: Any
    error: str | None


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = 240,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """Run `function(rank, *args)` in `world_size` processes and return the results in order of rank.

    `function` is a module-level function; it, `args` and the results are pickled (tensors by value). Each
    rank has the caller's environment and folder, the launcher's variables (RANK, WORLD_SIZE, LOCAL_RANK,
    LOCAL_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), gloo on the loopback, one thread, and then `env`.
    No process group exists yet: call the code under test, or `init_gloo()`. What ranks print is printed when
    all are done.

    Raises RankFailure as soon as one rank raises or dies, or when `timeout_s` is over; all ranks have been
    ended by then.
    """
    context = warm_up()
    payload = pickle.dumps((function, args))
    port = str(reserve_port())
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        processes: list[ForkServerProcess] = []
        pipes: list[Connection] = []
        try:
            for rank in range(world_size):
                ours, theirs = context.Pipe()
                place = _Place(
                    rank,
                    {**os.environ, **_rank_environment(rank, world_size, port), **(env or {})},
                    os.getcwd(),
                    str(Path(logs, f"rank-{rank}.log")),
                )
                process = context.Process(target=_rank_main, args=(payload, place, theirs), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            results = _collect(processes, pipes, timeout_s, Path(logs))
        finally:
            # Until now every rank has waited: the store, which lives in rank 0, is there for all of them.
            for pipe in pipes:
                pipe.close()
            _end(processes)
        print(_tails(Path(logs), world_size), end="")
        return [results[rank] for rank in range(world_size)]


def init_gloo(timeout_s: float = 120) -> None:
    """Start the default process group through DeepSpeed. Collective."""
    import datetime

    import deepspeed
    import torch.distributed as dist

    # DeepSpeed's data-parallel group takes this default, not the time-out that init_distributed is given.
    dist.distributed_c10d.default_pg_timeout = datetime.timedelta(seconds=timeout_s)
    deepspeed.init_distributed(
        "gloo", auto_mpi_discovery=False, timeout=datetime.timedelta(seconds=timeout_s), verbose=False
    )


def reserve_port() -> int:
    """A port of the loopback that the kernel gives to nobody else for a minute.

    A connection closed from the server's side stays in TIME_WAIT: the kernel then never picks its port by
    itself, but whoever asks for it by number with SO_REUSEADDR, as torch's store does, gets it.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()
        return int(server.getsockname()[1])


def warm_up() -> multiprocessing.context.ForkServerContext:
    """Start the fork server, if it does not run yet, without waiting for its imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    # Read by torch and DeepSpeed while they are imported in the server.
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(THREADS)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return context


def _rank_environment(rank: int, world_size: int, port: str) -> dict[str, str]:
    return {
        **THREADS,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _rank_main(payload: bytes, place: _Place, pipe: Connection) -> None:
    """The life of one rank: it never returns, so that no exit handler can hang."""
    os.setsid()  # its own process group: what it starts ends with it
    _die_with_parent()
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable()
    faulthandler.register(signal.SIGQUIT, all_threads=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it
    os.environ.clear()
    os.environ.update(place.environment)
    os.chdir(place.folder)
    try:
        _settle_torch()
        function, args = pickle.loads(payload)  # noqa: S301 - from our own parent
        report = pickle.dumps(_Outcome(function(place.rank, *args), None))
    except BaseException:  # SystemExit of the code under test is a failure too
        report = pickle.dumps(_Outcome(None, traceback.format_exc()))
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(OSError, EOFError):
        pipe.send_bytes(report)
        pipe.recv_bytes()
    os._exit(0)


def _settle_torch() -> None:
    import deepspeed
    import torch

    torch.set_num_threads(1)
    # Else the first init compiles a C++ op and leaves 66 MB a rank in /dev/shm; training never calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _die_with_parent() -> None:
    """Be killed when the fork server ends, which ends when pytest does, however that came about."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _collect(
    processes: list[ForkServerProcess],
    pipes: list[Connection],
    timeout_s: float,
    logs: Path,
) -> dict[int, Any]:
    """The result of every rank, or RankFailure at the first one that has none.

    The time starts here: a process that runs has a fork server behind it that has done its imports.
    """
    deadline = time.monotonic() + timeout_s
    results: dict[int, Any] = {}
    waiting = dict(zip(pipes, range(len(pipes)), strict=True))

    def failure(rank: int | None, what: str) -> RankFailure:
        _end(processes)
        codes = {r: process.exitcode for r, process in enumerate(processes)}
        return RankFailure(f"{what}\n{_tails(logs, len(processes))}", rank, codes, results)

    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            for process in processes:
                _signal(
                    process, signal.SIGQUIT
                )  # faulthandler writes the stacks of all its threads to its log
            time.sleep(STACK_DUMP_S)
            late = ", ".join(str(rank) for rank in waiting.values())
            raise failure(None, f"no answer within {timeout_s:g} s from rank {late}; their stacks are below")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = waiting.pop(pipe)
            try:
                outcome = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own child
            except (EOFError, ConnectionResetError):
                processes[rank].join(5)
                raise failure(rank, f"rank {rank} died with exit code {processes[rank].exitcode}") from None
            if outcome.error is not None:
                raise failure(rank, f"rank {rank} of {len(processes)} raised\n{outcome.error}")
            results[rank] = outcome.result
    return results


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    if process.exitcode is None and process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _end(processes: list[ForkServerProcess]) -> None:
    """End every rank and what it started, then wait until they are gone."""
    for process in processes:
        _signal(process, signal.SIGKILL)
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def _tails(logs: Path, world_size: int) -> str:
    """The end of what each rank printed, under a heading; nothing for a rank that was silent."""
    parts = []
    for rank in range(world_size):
        log = logs / f"rank-{rank}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        if text.strip():
            parts.append(f"--- output of rank {rank} ---\n{text[-LOG_TAIL_CHARACTERS:].rstrip()}\n")
    return "".join(parts)
