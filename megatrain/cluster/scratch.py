"""A folder for work that is thrown away: nobody else's, and one piece of work at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatrain.errors import UserError, require

MARK = "scratch.lock"
"""Says that a folder may be cleared; locked as long as somebody works there."""


def require_apart(folder: Path, run: Path) -> None:
    """Raises UserError when the folder holds anything of the run's, or of anybody's."""
    ours, theirs = folder.resolve(), run.resolve()
    require(
        not ours.is_relative_to(theirs) and not theirs.is_relative_to(ours),
        f"--folder ({folder}) must lie apart from run.folder ({run}): it is removed in the end",
    )
    require(
        not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or (folder / MARK).exists())),
        f"--folder ({folder}) exists and was not made by an earlier rehearsal; choose another",
    )


@contextmanager
def claimed(folder: Path, *, keep: bool) -> Iterator[None]:
    """The folder, emptied of earlier work. It stays after an error, for that can be looked into; after an
    interruption it goes, unless it is to be kept.

    Raises UserError when somebody works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / MARK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():
            if path.name != MARK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    except BlockingIOError:
        raise UserError(f"--folder ({folder}) is in use by another rehearsal; choose another") from None
    except KeyboardInterrupt:
        if not keep:
            shutil.rmtree(folder)
        raise
    finally:
        os.close(lock)
