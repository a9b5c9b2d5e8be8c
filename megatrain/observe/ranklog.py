"""The log file of each rank: everything that the program logs, in RUN/logs/rank-0000.log."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from megatrain.observe.append import Appender
from megatrain.state import RunFolder

_MARK = "megatrain.rank."


class RankFile(logging.Handler):
    """A log file that a full disk delays: one line on stderr says so, and whoever logs hears nothing."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        super().__init__()
        self._path, self._lines, self._failing = path, Appender(path), False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except OSError as error:
            if not self._failing:
                _say(f"{self._path}: cannot be written now: {error.strerror or error}")
            self._failing = True
        except Exception as error:  # a message that cannot be formatted
            _say(f"{self._path}: {record.pathname}:{record.lineno}: not logged: {error!r}")
        else:
            self._failing = False
        if complaint := self._lines.complaint():
            _say(complaint)

    def close(self) -> None:
        self._lines.close()
        if complaint := self._lines.complaint():
            _say(complaint)
        super().close()


class Screen(logging.StreamHandler[TextIO]):
    """Lines on stderr, which are lost where it cannot take them."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: there is no other place to say it."""


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"megatrain: {text}\n")
        sys.stderr.flush()


def open_rank_log(folder: RunFolder, rank: int, level: int = logging.INFO) -> logging.Handler:
    """Send this process's log records to its file, and warnings to stderr with the rank before them.

    Called once by the rank program; called again (another folder, another rank) it replaces the earlier file.
    The file is appended to: an attempt's lines follow those of the one before.
    """
    root = logging.getLogger()
    close_rank_log()
    try:
        file: logging.Handler = RankFile(folder.log(rank))
    except OSError as error:  # what it would say is on stderr too
        file = logging.NullHandler()
        _say(f"{folder.log(rank)}: cannot be written: {error.strerror or error}")
    form = logging.Formatter(f"%(asctime)s.%(msecs)03dZ rank {rank} %(levelname)s %(name)s: %(message)s")
    form.datefmt = "%Y-%m-%dT%H:%M:%S"
    form.converter = time.gmtime
    file.setFormatter(form)
    file.setLevel(level)
    file.set_name(f"{_MARK}file")
    screen = Screen(sys.stderr)
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
