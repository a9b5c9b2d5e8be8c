"""The log file of each rank: everything that the program logs, in RUN/logs/rank-0000.log."""

from __future__ import annotations

import logging
import sys
import time

from megatrain.state import RunFolder

_MARK = "megatrain.rank."


def open_rank_log(folder: RunFolder, rank: int, level: int = logging.INFO) -> logging.Handler:
    """Send this process's log records to its file, and warnings to stderr with the rank before them.

    Called once by the rank program; called again (another folder, another rank) it replaces the earlier file.
    The file is appended to: an attempt's lines follow those of the one before.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    close_rank_log()
    file = logging.FileHandler(folder.log(rank), encoding="utf-8")
    form = logging.Formatter(f"%(asctime)s.%(msecs)03dZ rank {rank} %(levelname)s %(name)s: %(message)s")
    form.datefmt = "%Y-%m-%dT%H:%M:%S"
    form.converter = time.gmtime
    file.setFormatter(form)
    file.setLevel(level)
    file.set_name(f"{_MARK}file")
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(logging.Formatter(f"[rank {rank}] %(levelname)s %(name)s: %(message)s"))
    screen.setLevel(logging.WARNING)
    screen.set_name(f"{_MARK}screen")
    root.addHandler(file)
    root.addHandler(screen)
    root.setLevel(min(level, root.level or level))
    logging.captureWarnings(True)
    return file


def close_rank_log() -> None:
    """Take back what `open_rank_log` set up."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if (handler.name or "").startswith(_MARK)]:
        root.removeHandler(handler)
        handler.close()
    logging.captureWarnings(False)
