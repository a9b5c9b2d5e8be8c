"""Wishes from outside: signals and files that ask a run to save or to stop. A wish is acted on when all
ranks agree."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from megatrain.resilience.control import Control, is_there
from megatrain.state import RunFolder

logger = logging.getLogger(__name__)


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

    def __init__(
        self,
        names: Sequence[str],
        folder: RunFolder,
        rank: int,
        *,
        save_signal: str | None = None,
        control: Control | None = None,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """`names` of signals that ask for a save and an end, and of one that asks for a save alone; `fence`
        raises when the run is another attempt's, whose wishes then stay."""
        self._fence = fence
        self._stuck: set[Path] = set()
        """Files that could not be removed: not a new wish at every step."""
        self._control = control
        self._asked_at: float | None = None
        self._folder, self._rank = folder, rank
        self._signalled = False
        self._save_asked = False
        for name in names:
            signal.signal(signal.Signals[name], self._catch)
        if save_signal is not None:
            signal.signal(signal.Signals[save_signal], self._catch_save)

    def now(self, *, stop: bool = False, save: bool = False) -> Wish:
        """What is wished at this moment, on this rank; `stop` and `save` are wishes of the run itself."""
        first = self._rank == 0
        control = self._control if first else None  # one rank looks, the step's collective tells the others
        if control is not None and (control.asked("preempt") or control.supervisor_gone()):
            self._signalled = True
        if self._signalled and self._asked_at is None:
            self._asked_at = time.monotonic()
        return Wish(
            preempt=self._signalled,
            stop=stop or (first and is_there(self._folder.stop_file)),
            save=save or self._save_asked or (first and self._asked_by(self._folder.save_file)),
        )

    def _asked_by(self, path: Path) -> bool:
        return is_there(path) and path not in self._stuck

    def waiting_s(self) -> float:
        """How long ago this rank saw that it was asked to save and end."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    def granted(self, *, save: bool, stop: bool) -> None:
        """A fulfilled wish for a save is over; rank 0 takes the files away. Raises FailedWork."""
        self._save_asked = self._save_asked and not save
        if self._rank != 0 or not (save or stop):
            return
        for fulfilled, path in ((save, self._folder.save_file), (stop, self._folder.stop_file)):
            if fulfilled and is_there(path):
                try:
                    self._fence()
                    path.unlink(missing_ok=True)
                except OSError as error:  # a folder of that name, or a disk that fails
                    self._stuck.add(path)
                    logger.warning("%s cannot be removed (%s); remove it", path, error.strerror or error)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _catch_save(self, number: int, frame: FrameType | None) -> None:
        self._save_asked = True
