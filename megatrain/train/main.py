"""The rank program: arguments in, exit code out."""

from __future__ import annotations

import argparse
import logging
import socket
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from megatrain.config import load_config
from megatrain.errors import FailedWork, UserError
from megatrain.output import guarded, open_standard_files, say
from megatrain.resilience.control import Control, Failure
from megatrain.resilience.watchdog import Watchdog
from megatrain.settings.paths import path
from megatrain.state import RunFolder, Stop
from megatrain.train.ranks import leave, start_rank, world_from_environment

PREEMPTED = 75
# How gloo and NCCL say that a peer is gone.
LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "remote process exited",
)

WORD_S = 10.0
"""How long a rank whose work failed waits for rank 0 to say so, which fails of the same at the same time."""


def main(arguments: Sequence[str]) -> int:
    """Run this rank to its end; gives its exit code. Bad input is one line on stderr, from rank 0."""
    parser = argparse.ArgumentParser(prog="pretrain.py", description="One rank of a training run.")
    parser.add_argument("--config", type=path, required=True)
    parser.add_argument("--control", type=path, help="where the supervisor and the ranks meet")
    parser.add_argument("--local_rank", type=int, help="passed by some launchers; the environment decides")
    known, overrides = parser.parse_known_args(arguments)
    open_standard_files()
    with guarded(out=True):
        return _rank(known.config, overrides, Control(known.control) if known.control is not None else None)


def _rank(config: Path, overrides: Sequence[str], control: Control | None) -> int:
    rank, _, _ = world_from_environment()
    if control is not None:
        control.enter(rank)
    code, told = 1, True
    try:
        code = _train(config, overrides, rank, control)
    except (UserError, FailedWork) as error:
        if rank == 0:
            say(f"megatrain: {error}")
        code = error.exit_code
        if control is not None and rank != 0:
            control.fail(Failure(rank, socket.gethostname(), "failed", str(error), time.time()))
            control.await_exit_code(WORD_S)  # a launcher kills rank 0 when this one ends, perhaps too early
    except Exception as error:
        _report(rank, error, expected=control is not None and control.exit_code() is not None)
        told = False  # a fault: the supervisor starts the ranks again
        if control is not None:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            control.fail(Failure(rank, socket.gethostname(), "crash", text, time.time()))
    if rank == 0 and control is not None and told:
        control.finish(code)
    if code in (0, PREEMPTED):
        leave()  # waits for all: a launcher kills the other ranks as soon as one has ended with a code
    if control is not None:
        control.leave(rank)
        if control.exit_code() is not None:
            return 0  # the supervisor knows; the launcher between would print an error after rank 0's line
    return code


def _report(rank: int, error: Exception, *, expected: bool) -> None:
    """The whole story to the rank's log, and to stderr unless it only follows from another rank's end; where
    rank 0 had said why it ends, that is `expected`, and nothing is printed after its line."""
    logger = logging.getLogger(__name__)
    if not logging.getLogger().handlers:
        traceback.print_exc()
    elif any(text in str(error) for text in LOST_PEER):
        logger.info("rank %d lost another rank", rank, exc_info=True)
        level = logging.INFO if expected else logging.ERROR
        logger.log(level, "rank %d lost another rank: %s", rank, str(error).splitlines()[0][:300])
    else:
        logger.critical("rank %d failed", rank, exc_info=True)


def _train(config_path: Path, overrides: Sequence[str], rank: int, control: Control | None) -> int:
    config = load_config(config_path, overrides)
    watch = Watchdog(config.resilience.watchdog, RunFolder(Path(config.run.folder)), rank, control=control)
    try:
        from megatrain.train.loop import train

        stop = train(config, start_rank(config), watch, control)
    finally:
        watch.close()
    return PREEMPTED if stop is Stop.PREEMPTED else 0
