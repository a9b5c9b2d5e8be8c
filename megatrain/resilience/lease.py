"""The lease on a run's folder: one attempt at a time writes there, and one that lost it commits nothing more.

`RUN/lease.json` says who holds it and is renewed by time. It is taken over when its holder has ended, or has
not renewed it for so long. Nothing here needs file locks, which many cluster file systems lack: the number of
an attempt is claimed by creating a file that must not exist, which is atomic on all of them, and ages are
compared on the file server's own clock.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError
from megatrain.observe.lines import is_count, tail
from megatrain.output import say
from megatrain.resilience.process import Process, this_process
from megatrain.state import RunFolder

VERSION = 1
RENEWALS = 6  # within the time after which it may be taken over
FRESH = 2  # a renewal counts as proof for this share of that time; file servers' clocks are coarse
GRACE_S = 15.0
POLL_S = 0.5
logger = logging.getLogger(__name__)


def awake_or_not_s() -> float:
    """Return seconds that also pass while the process is stopped or the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Holder:
    """What lease.json says."""

    attempt: int
    run: str
    """Names the run for ever: made at its first start."""
    key: str
    """Of this taking; nobody else has it."""
    host: str
    process: Process
    renewed: float
    """Unix time, for people."""
    released: bool = False
    version: int = VERSION


class Lease:
    """Held by rank 0 of an attempt, renewed by a thread."""

    def __init__(
        self,
        folder: RunFolder,
        holder: Holder,
        lease_s: float,
        *,
        clock: Callable[[], float] = awake_or_not_s,
    ) -> None:
        self._folder, self._holder, self._lease_s, self._clock = folder, holder, lease_s, clock
        self._renewed_at = -math.inf
        """When the last renewal began; nobody takes the lease over within `lease_s` from then."""
        self._gone: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    @property
    def attempt(self) -> int:
        """How often the run was started; no two starts have the same number."""
        return self._holder.attempt

    @property
    def run(self) -> str:
        return self._holder.run

    @property
    def key(self) -> str:
        """Names this taking of the lease; nobody else has it."""
        return self._holder.key

    def fence(self) -> None:
        """Raise FailedWork when another attempt holds the run, OSError when that cannot be known now.

        Costs nothing while renewals succeed: lease.json is read only where the last one began longer ago than
        `lease_s / FRESH`, as after the process was stopped, its machine suspended, or the disk full.
        """
        if self._gone is None and self._clock() - self._renewed_at < self._lease_s / FRESH:
            return
        try:
            self._gone = self._gone or self.lost()
        except UserError as error:  # of a newer version: somebody else's
            self._gone = str(error)
        except FailedWork as error:
            raise OSError(errno.EIO, str(error)) from None
        if self._gone is not None:
            raise FailedWork(self._gone)

    def lost(self) -> str | None:
        """Why this attempt must not commit any more; None while it holds the lease."""
        found = read_holder(self._folder)
        if found is not None and found.key == self._holder.key:
            return None
        by = f"attempt {found.attempt} on {found.host}" if found is not None else "nobody"
        return (
            f"{self._folder.lease}: this attempt ({self.attempt}) lost its lease on the run, now held by {by}"
        )

    def release(self) -> None:
        """The next start need not wait."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError, FailedWork):
            if self.lost() is None:
                _write(self._folder, self._holder, released=True)

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / RENEWALS):
            try:
                reason = self.lost()
                if reason is not None:
                    self._gone = reason
                    logger.error("%s", reason)
                    return
                began = self._clock()
                _write(self._folder, self._holder)
                self._renewed_at = began
            except (OSError, FailedWork) as error:  # a full or slow disk: tried again at the next turn
                logger.warning("%s cannot be renewed: %s", self._folder.lease, error)


def take_lease(folder: RunFolder, lease_s: float) -> Lease:
    """Become the run's holder, with an attempt number that no start before has had.

    Waits for a holder that is ending, or that has not renewed its lease for `lease_s`. Raises UserError when
    somebody goes on holding it.
    """
    deadline, told = time.monotonic() + lease_s + GRACE_S, False
    (folder.root / "attempts").mkdir(parents=True, exist_ok=True)
    while True:
        found = read_holder(folder)
        if found is None or found.released or found.process.has_ended() or _age_s(folder) > lease_s:
            holder = _claim(folder, found, lease_s)
            if holder is not None:
                return Lease(folder, holder, lease_s)
        if found is not None and not told and not found.released:
            told = True
            who = f"attempt {found.attempt} on {found.host} holds {folder.root}"
            say(f"megatrain: {who}: waiting for its end, up to {lease_s + GRACE_S:.0f} s")
        if time.monotonic() > deadline:
            who = f"attempt {found.attempt}, process {found.process.pid} on {found.host}" if found else "?"
            raise UserError(
                f"run.folder ({folder.root}) is in use by a run that is going on ({who}); stop it "
                f"(touch {folder.stop_file}) or choose another run.folder"
            )
        time.sleep(POLL_S)


def read_holder(folder: RunFolder) -> Holder | None:
    """Who holds or held the run last; None where it was never started.

    Raises UserError for a newer version, FailedWork for a file that is no lease.
    """
    try:
        tree = json.loads(folder.lease.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FailedWork(
            f"{folder.lease}: cannot be read: {error}; remove it if no run is going on"
        ) from None
    try:
        if tree["version"] > VERSION:
            raise UserError(
                f"{folder.lease}: version {tree['version']} is newer than this megatrain; upgrade"
            )
        return Holder(**{**tree, "process": Process(**tree["process"])})
    except (TypeError, LookupError) as error:
        raise FailedWork(f"{folder.lease}: is no lease: {error}; remove it if no run is going on") from None


def _claim(folder: RunFolder, last: Holder | None, lease_s: float) -> Holder | None:
    """Take the next free number, and the lease with it; None when somebody else was faster."""
    attempts = folder.root / "attempts"
    number = last.attempt + 1 if last is not None else _first_number(folder)
    run = last.run if last is not None else uuid.uuid4().hex
    while True:
        try:
            os.close(os.open(_claim_file(folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            # Its claimer is about to write the lease, unless it died in between.
            if _age_of(_claim_file(folder, number), attempts) <= lease_s:
                return None
            number += 1
    holder = Holder(number, run, uuid.uuid4().hex, socket.gethostname(), this_process(), time.time())
    _write(folder, holder)
    for path in attempts.iterdir():
        if path.name.isdecimal() and int(path.name) < number:
            path.unlink(missing_ok=True)
    return holder


def _first_number(folder: RunFolder) -> int:
    """Where there is no lease: 1, or in a run whose lease.json somebody removed the last number that was
    claimed, to be compared by age, or one above all that were logged. Numbers never fall: what the highest
    attempt logged is what counts."""
    names = [path.name for path in (folder.root / "attempts").iterdir()]
    claimed = max([1, *(int(name) for name in names if name.isdecimal())])
    lines = [line for path in (folder.metrics, folder.events) for line in tail(path)]
    logged = max([0, *(int(line["attempt"]) for line in lines if is_count(line.get("attempt")))])
    return claimed if claimed >= logged else logged + 1


def _write(folder: RunFolder, holder: Holder, *, released: bool = False) -> None:
    tree = {**asdict(holder), "renewed": time.time(), "released": released}
    write_durably(folder.lease, json.dumps(tree, indent=1).encode())


def _claim_file(folder: RunFolder, number: int) -> Path:
    return folder.root / "attempts" / f"{number:05d}"


def _age_s(folder: RunFolder) -> float:
    return _age_of(folder.lease, folder.root / "attempts")


def _age_of(path: Path, beside: Path) -> float:
    """Seconds since a file was written, on the clock of the file system; 0 where it is gone meanwhile."""
    probe = beside / f".clock-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
