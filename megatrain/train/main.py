"""The rank program: arguments in, exit code out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from megatrain.checkpoint.storage import replacing
from megatrain.config import Config, load_config
from megatrain.errors import FailedWork, UserError
from megatrain.state import Stop
from megatrain.train.ranks import leave, start_rank, world_from_environment

# Launchers hide exit codes; whoever started them names a file that rank 0 writes its own into.
EXIT_FILE_VARIABLE = "MEGATRAIN_EXIT_FILE"
PREEMPTED = 75


def main(arguments: Sequence[str]) -> int:
    """Run this rank to its end. Bad input is one line on stderr, from rank 0."""
    parser = argparse.ArgumentParser(prog="pretrain.py", description="One rank of a training run.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--local_rank", type=int, help="passed by some launchers; the environment decides")
    known, overrides = parser.parse_known_args(arguments)
    rank, _, _ = world_from_environment()
    try:
        code = _train(load_config(known.config, overrides))
    except (UserError, FailedWork) as error:
        if rank == 0:
            print(f"megatrain: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except Exception:
        logging.getLogger(__name__).critical("rank %d failed", rank, exc_info=True)
        traceback.print_exc()
        code = 1
    if rank == 0:
        _tell(code)
    if code in (0, PREEMPTED, 2):
        leave()
    sys.stdout.flush()
    return code


def _train(config: Config) -> int:
    from megatrain.train.loop import train

    stop = train(config, start_rank(config))
    return PREEMPTED if stop is Stop.PREEMPTED else 0


def _tell(code: int) -> None:
    path = os.environ.get(EXIT_FILE_VARIABLE)
    if path:
        with replacing(Path(path)) as file:
            file.write(str(code).encode())
