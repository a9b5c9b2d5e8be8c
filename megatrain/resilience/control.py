"""What a supervisor and its ranks tell each other, as small files of one folder.

Launchers between them hide exit codes and lose signals, and ranks may run on other hosts; a folder that all
see needs neither. The supervisor asks (`preempt`, `end`); ranks tell that they live, what failed, and with
which code rank 0 ended. Each file has a hash of its own: a process that a flipped bit names must not be
killed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from megatrain.errors import FailedWork
from megatrain.records import built, read_file, read_sealed, write_sealed
from megatrain.resilience.process import Process, process_of, this_process
from megatrain.state import RunFolder

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
                yield int(path.name.removeprefix("rank-")), process_of(read_sealed(path))

    def exit_code(self) -> int | None:
        """Rank 0's, when it has ended by itself."""
        with suppress(OSError, ValueError):
            code = read_sealed(self.folder / "exit").get("code")
            return code if type(code) is int else None
        return None

    def lease_key(self) -> str | None:
        """Of the lease that this launch took; None if it took none."""
        with suppress(OSError, ValueError):
            key = read_sealed(self.folder / "lease").get("key")
            return key if isinstance(key, str) else None
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
                found.append(built(Failure, read_sealed(path)))
        return sorted(found, key=lambda failure: failure.unix)

    # --- a rank ---

    def enter(self, rank: int) -> None:
        self._write(f"rank-{rank:05d}", asdict(this_process()))

    def leave(self, rank: int) -> None:
        with suppress(OSError):
            (self.folder / f"rank-{rank:05d}").unlink(missing_ok=True)

    def asked(self, wish: Wish) -> bool:
        return is_there(self.folder / wish)

    def supervisor_gone(self) -> bool:
        """It has ended without a word, or cannot be seen any more."""
        path = self.folder / "supervisor"
        try:
            process = process_of(read_sealed(path))
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
            self._write("lease", {"key": key})

    def finish(self, code: int) -> None:
        """Rank 0's exit code."""
        with suppress(OSError):
            self._write("exit", {"code": code})

    def fail(self, failure: Failure) -> None:
        with suppress(OSError):
            self._write(f"failure-{failure.rank:05d}", asdict(failure))

    def _write(self, name: str, tree: Mapping[str, object]) -> None:
        write_sealed(self.folder / name, tree)


def is_there(path: Path) -> bool:
    """Whether there is anything of this name: a file, a folder, a link to nothing.

    Also false where the file system does not answer: that must not end a run that looks for requests.
    """
    try:
        os.lstat(path)
    except OSError:
        return False
    return True


def read_bad_hosts(folder: RunFolder) -> list[str]:
    """Return the names in bad-hosts.txt, which a person may shorten; none where there is no file.

    Raises FailedWork where it cannot be read: the run would start on hosts that compute wrongly.
    """
    try:
        return read_file(folder.bad_hosts).decode("utf-8", "replace").split()
    except FileNotFoundError:
        return []
    except OSError as error:
        what = error.strerror or error
        raise FailedWork(f"{folder.bad_hosts}: cannot be read: {what}; remove or restore it") from None
