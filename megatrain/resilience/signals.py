"""Wishes from outside: signals and files that ask a run to save or to stop. A wish is acted on when all
ranks agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from megatrain.state import RunFolder

SUPERVISOR_VARIABLE = "MEGATRAIN_SUPERVISOR"


@dataclass(frozen=True)
class Wish:
    """What one rank was asked for."""

    preempt: bool = False
    """Save, stop, be started again: a signal came, or whoever started the ranks is gone."""
    stop: bool = False
    """Save and stop for good: RUN/STOP exists."""
    save: bool = False
    """RUN/SAVE exists."""


class Wishes:
    """Catches the configured signals; rank 0 also looks for the run's STOP and SAVE files."""

    def __init__(self, names: Sequence[str], folder: RunFolder, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._signalled = False
        supervisor = os.environ.get(SUPERVISOR_VARIABLE, "")
        self._supervisor = int(supervisor) if supervisor.isdigit() else None
        for name in names:
            signal.signal(signal.Signals[name], self._catch)

    def now(self, *, stop: bool = False) -> Wish:
        """What is wished at this moment, on this rank; `stop` is the config's own wish."""
        orphaned = self._supervisor is not None and not _alive(self._supervisor)
        first = self._rank == 0
        return Wish(
            preempt=self._signalled or orphaned,
            stop=stop or (first and self._folder.stop_file.exists()),
            save=first and self._folder.save_file.exists(),
        )

    def granted(self, *, save: bool, stop: bool) -> None:
        """Rank 0 takes the files away once their wish was fulfilled."""
        if self._rank == 0:
            for fulfilled, path in ((save, self._folder.save_file), (stop, self._folder.stop_file)):
                if fulfilled:
                    path.unlink(missing_ok=True)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def _alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but was not reaped (a zombie) does not."""
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
    except OSError:
        pass  # no such file system here, or no such process: the signal tells
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
