"""The lease on a run's folder: one attempt at a time writes there, and one that lost it commits nothing more.

`RUN/lease.json` says who holds it and is renewed by time. It is taken over when its holder has ended, or has
not renewed it for so long. Nothing here needs file locks, which many cluster file systems lack: the number of
an attempt is claimed by creating a file that must not exist, which is atomic on all of them, and ages are
compared on the file server's own clock.

lease.json has a hash of its own, and the claimed file holds a second copy of who claimed it. A damaged
lease.json names nobody: its holder, whose number is the highest that was claimed, writes it again at the next
renewal, and a start takes the run over when the file was not written for as long as any other lease.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from megatrain.errors import FailedWork, UserError, require
from megatrain.observe.lines import is_count, tail
from megatrain.output import say
from megatrain.records import built, check_seal, parse_record, read_file, sealed, write_sealed
from megatrain.resilience.process import Process, process_of, this_process
from megatrain.state import RunFolder

VERSION = 2  # 1: without its own hash
NUMBER = re.compile(r"[0-9]{1,12}")
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
        self._gone = self._gone or self.lost()
        if self._gone is not None:
            raise FailedWork(self._gone)

    def lost(self) -> str | None:
        """Why this attempt must not commit any more; None while it holds the lease. Raises OSError where that
        cannot be known."""
        try:
            found = read_holder(self._folder)
        except UserError as error:  # of a newer version: somebody else's
            return str(error)
        except FailedWork as error:
            return self._lost_with(str(error))
        if found is not None and found.key == self._holder.key:
            return None
        by = f"attempt {found.attempt} on {found.host}" if found is not None else "nobody"
        return (
            f"{self._folder.lease}: this attempt ({self.attempt}) lost its lease on the run, now held by {by}"
        )

    def _lost_with(self, damage: str) -> str | None:
        """With a damaged lease.json, whoever claimed the highest number holds the run."""
        highest = max(_claimed(self._folder), default=0)
        if highest == self.attempt:
            return None
        return (
            f"{damage}; this attempt ({self.attempt}) lost its lease on the run, {highest} was claimed since"
        )

    def release(self) -> None:
        """The next start need not wait."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
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
            except OSError as error:  # a full or slow disk: tried again at the next turn
                logger.warning("%s cannot be renewed: %s", self._folder.lease, error)


def take_lease(folder: RunFolder, lease_s: float) -> Lease:
    """Become the run's holder, with an attempt number that no start before has had.

    Waits for a holder that is ending, or that has not renewed its lease for `lease_s`. Raises UserError when
    somebody goes on holding it.
    """
    deadline, told = time.monotonic() + lease_s + GRACE_S, False
    (folder.root / "attempts").mkdir(parents=True, exist_ok=True)
    require(not folder.lease.is_dir(), f"{folder.lease}: is a folder; remove it if no run is going on")
    while True:
        damage = None
        try:
            found = read_holder(folder)
        except FailedWork as error:
            found, damage = _second_copy(folder), str(error)
        free = found is None and damage is None
        if free or (found and (found.released or found.process.has_ended())) or _age_s(folder) > lease_s:
            holder = _claim(folder, found, lease_s)
            if holder is not None:
                if damage is not None:
                    logger.warning("%s; taken over by attempt %d", damage, holder.attempt)
                return Lease(folder, holder, lease_s)
        holds = f"attempt {found.attempt} on {found.host} holds" if found else f"{damage}; somebody may hold"
        if not free and not told and not (found and found.released):
            told = True
            limit = f"waiting for its end, up to {lease_s + GRACE_S:.0f} s"
            say(f"megatrain: {holds} {folder.root}: {limit}")
        if time.monotonic() > deadline:
            who = f"attempt {found.attempt}, process {found.process.pid} on {found.host}" if found else "?"
            raise UserError(
                f"run.folder ({folder.root}) is in use by a run that is going on ({who}); stop it "
                f"(touch {folder.stop_file}) or choose another run.folder"
            )
        time.sleep(POLL_S)


def read_holder(folder: RunFolder) -> Holder | None:
    """Who holds or held the run last; None where it was never started.

    Raises UserError for a newer version, FailedWork for a file that is damaged, or no lease.
    """
    try:
        return _read(folder.lease)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedWork(f"{folder.lease}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise FailedWork(f"{folder.lease}: damaged: {error}") from None


def _read(path: Path) -> Holder:
    """Raises OSError, ValueError, and UserError for a newer version that is sound."""
    tree = parse_record(read_file(path))
    version = tree.get("version")
    if type(version) is not int or version < 1:
        raise ValueError(f"version is {str(version)[:40]!r}")
    check_seal(tree, required=version > 1)
    if version > VERSION:
        raise UserError(f"{path}: version {version} is newer than this megatrain; upgrade")
    holder = built(Holder, tree, process=process_of(tree.get("process")))
    if holder.attempt < 1:
        raise ValueError(f"attempt is {holder.attempt}")
    return holder


def _second_copy(folder: RunFolder) -> Holder | None:
    """What the last attempt wrote into its claimed file; versions before wrote nothing there."""
    with suppress(OSError, ValueError):
        return _read(_claim_file(folder, max(_claimed(folder), default=0)))
    return None


def _claimed(folder: RunFolder) -> list[int]:
    """The numbers of the attempts that were claimed, and not cleared away. Raises OSError."""
    try:
        names = [path.name for path in (folder.root / "attempts").iterdir()]
    except FileNotFoundError:
        return []
    return [int(name) for name in names if NUMBER.fullmatch(name)]


def _claim(folder: RunFolder, last: Holder | None, lease_s: float) -> Holder | None:
    """Take the next free number, and the lease with it; None when somebody else was faster."""
    attempts = folder.root / "attempts"
    number = last.attempt + 1 if last is not None else _first_number(folder)
    known = last or _second_copy(folder)
    run = known.run if known is not None else uuid.uuid4().hex
    while True:
        try:
            claim = os.open(_claim_file(folder, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            # Its claimer is about to write the lease, unless it died in between.
            if _age_of(_claim_file(folder, number), attempts) <= lease_s:
                return None
            number += 1
    holder = Holder(number, run, uuid.uuid4().hex, socket.gethostname(), this_process(), time.time())
    with open(claim, "wb") as file:
        file.write(json.dumps(sealed(asdict(holder)), indent=1).encode())
    _write(folder, holder)
    for older in _claimed(folder):
        if older < number:
            with suppress(OSError):
                _claim_file(folder, older).unlink(missing_ok=True)
    return holder


def _first_number(folder: RunFolder) -> int:
    """Where there is no lease: 1, or in a run whose lease.json somebody removed the last number that was
    claimed, to be compared by age, or one above all that were logged. Numbers never fall: what the highest
    attempt logged is what counts."""
    claimed = max([1, *_claimed(folder)])
    lines = [line for path in (folder.metrics, folder.events) for line in tail(path)]
    logged = max([0, *(int(line["attempt"]) for line in lines if is_count(line.get("attempt")))])
    return claimed if claimed >= logged else logged + 1


def _write(folder: RunFolder, holder: Holder, *, released: bool = False) -> None:
    tree = {**asdict(holder), "renewed": time.time(), "released": released}
    write_sealed(folder.lease, tree)


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
