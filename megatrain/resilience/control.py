"""What a supervisor and its ranks tell each other, as small files of one folder.

Launchers between them hide exit codes and lose signals, and ranks may run on other hosts; a folder that all
see needs neither. The supervisor asks (`preempt`, `end`); ranks tell that they live, what failed, and with
which code rank 0 ended.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megatrain.durable import write_durably
from megatrain.resilience.process import Process, this_process

RENEW_S = 5.0
POLL_S = 0.05
GONE_S = 60.0
"""A supervisor on another host that has not renewed its file for so long is gone."""
Wish = Literal["preempt", "end"]


@dataclass(frozen=True)
class Failure:
    """What a rank says of its own end."""

    rank: int
    host: str
    kind: str
    """crash, hang, failed."""
    text: str
    unix: float


class Control:
    """One launch. The folder is made by the supervisor, and goes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- the supervisor ---

    def open(self) -> None:
        self.folder.mkdir(parents=True)
        self._write("supervisor", asdict(this_process()))

    def renew(self) -> None:
        """To be called every few seconds."""
        with suppress(OSError):
            os.utime(self.folder / "supervisor")

    def ask(self, wish: Wish) -> None:
        (self.folder / wish).touch()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def living(self) -> Iterator[tuple[int, Process]]:
        """The ranks that have begun and not ended, as far as they could say."""
        for path in sorted(self.folder.glob("rank-*")):
            with suppress(OSError, ValueError, TypeError):
                yield int(path.name.removeprefix("rank-")), Process(**json.loads(path.read_text()))

    def exit_code(self) -> int | None:
        """Rank 0's, when it has ended by itself."""
        with suppress(OSError, ValueError):
            return int((self.folder / "exit").read_text())
        return None

    def lease_key(self) -> str | None:
        """Of the lease that this launch took; None if it took none."""
        with suppress(OSError, ValueError):
            return (self.folder / "lease").read_text()
        return None

    def await_exit_code(self, most_s: float) -> None:
        """Wait until rank 0 has told it, but not for ever."""
        end = time.monotonic() + most_s
        while self.exit_code() is None and time.monotonic() < end:
            time.sleep(POLL_S)

    def failures(self) -> list[Failure]:
        """The first to fail comes first."""
        found = []
        for path in self.folder.glob("failure-*"):
            with suppress(OSError, ValueError, TypeError):
                found.append(Failure(**json.loads(path.read_text())))
        return sorted(found, key=lambda failure: failure.unix)

    # --- a rank ---

    def enter(self, rank: int) -> None:
        self._write(f"rank-{rank:05d}", asdict(this_process()))

    def leave(self, rank: int) -> None:
        with suppress(OSError):
            (self.folder / f"rank-{rank:05d}").unlink(missing_ok=True)

    def asked(self, wish: Wish) -> bool:
        return (self.folder / wish).exists()

    def supervisor_gone(self) -> bool:
        """It has ended without a word, or cannot be seen any more."""
        path = self.folder / "supervisor"
        try:
            process = Process(**json.loads(path.read_text()))
            if process.has_ended():
                return True
            return process.world != this_process().world and time.time() - path.stat().st_mtime > GONE_S
        except FileNotFoundError:
            return True
        except (OSError, ValueError, TypeError):
            return False

    def hold(self, key: str) -> None:
        """Rank 0 has taken the run's lease, which has this key."""
        with suppress(OSError):
            write_durably(self.folder / "lease", key.encode())

    def finish(self, code: int) -> None:
        """Rank 0's exit code."""
        with suppress(OSError):
            write_durably(self.folder / "exit", str(code).encode())

    def fail(self, failure: Failure) -> None:
        with suppress(OSError):
            self._write(f"failure-{failure.rank:05d}", asdict(failure))

    def _write(self, name: str, tree: object) -> None:
        write_durably(self.folder / name, json.dumps(tree).encode())
