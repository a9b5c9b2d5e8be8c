"""The rank program: arguments in, exit code out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from megatrain.config import load_config
from megatrain.durable import replacing
from megatrain.errors import FailedWork, UserError
from megatrain.state import Stop
from megatrain.train.ranks import leave, start_rank, world_from_environment

# Launchers hide exit codes and lose signals: in the folder that this variable names, each rank leaves its
# pid as long
# as it lives, and rank 0 its exit code.
STATUS_VARIABLE = "MEGATRAIN_STATUS"
EXIT_FILE = "exit"
PREEMPTED = 75


def main(arguments: Sequence[str]) -> int:
    """Run this rank to its end. Bad input is one line on stderr, from rank 0."""
    parser = argparse.ArgumentParser(prog="pretrain.py", description="One rank of a training run.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--local_rank", type=int, help="passed by some launchers; the environment decides")
    known, overrides = parser.parse_known_args(arguments)
    rank, _, _ = world_from_environment()
    status = os.environ.get(STATUS_VARIABLE)
    pid_file = Path(status, f"pid-{os.getpid()}") if status else None
    if pid_file is not None:
        pid_file.touch()
    try:
        code = _train(known.config, overrides)
    except (UserError, FailedWork) as error:
        if rank == 0:
            print(f"megatrain: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except Exception:
        logging.getLogger(__name__).critical("rank %d failed", rank, exc_info=True)
        traceback.print_exc()
        code = 1
    if rank == 0 and status:
        with replacing(Path(status, EXIT_FILE)) as file:
            file.write(str(code).encode())
    if code in (0, PREEMPTED):
        leave()  # waits for all: a launcher kills the other ranks as soon as one has ended with a code
    if pid_file is not None:
        pid_file.unlink(missing_ok=True)
    return code


def _train(path: str, overrides: Sequence[str]) -> int:
    config = load_config(path, overrides)
    from megatrain.train.loop import train

    stop = train(config, start_rank(config))
    return PREEMPTED if stop is Stop.PREEMPTED else 0
