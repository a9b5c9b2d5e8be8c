"""Notices that a rank has come to a standstill, says where every rank is and who did not arrive, and ends the
rank.

The main thread says which phase of the run it is in. A thread compares with the limit of that phase, which
for steps is learned from the last ones, and keeps a heartbeat file of each rank, so that the ranks can tell
of each other. A second guard, inside the interpreter's C code, ends a rank whose threads cannot run at all.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal, TextIO

import megatrain
from megatrain.config import WatchdogConfig
from megatrain.parallel import collectives
from megatrain.records import built, parse_record, read_file
from megatrain.resilience import waiting
from megatrain.resilience.control import Control, Failure
from megatrain.state import RunFolder

HUNG = 70
"""Exit code of a rank that its watchdog ended."""
POLL_S = 0.5
GATHER_S = 3.0
"""So long the others get to say where they are."""
HARD_S = 30.0
"""So much later the second guard ends the rank."""
REMEMBERED_STEPS = 50
COLLECTIVES = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/torch.py")
OURS, CLOCK = collectives.__file__, waiting.__file__
HERE = str(Path(megatrain.__file__).parent) + os.sep
Phase = Literal["start", "step", "evaluate", "save", "end"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Heartbeat:
    """Where a rank is; its file is renewed every few seconds."""

    rank: int
    host: str
    pid: int
    attempt: int
    phase: str
    step: int
    collective: str
    """The collective that the main thread waits in; empty if it computes, reads or does something else."""
    place: str
    """The innermost line of megatrain that the main thread is in."""
    struck: bool
    """Its watchdog has struck."""
    unix: float


class StepLimit:
    """How long a step may take: a multiple of the median of the last, between a floor and a ceiling."""

    def __init__(self, config: WatchdogConfig) -> None:
        self._config = config
        self._seconds: deque[float] = deque(maxlen=REMEMBERED_STEPS)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def limit_s(self) -> float:
        config = self._config
        if not self._seconds:  # the first step compiles, allocates, connects
            return config.start_s
        learned = config.step_factor * statistics.median(self._seconds)
        return min(max(learned, config.step_floor_s), config.step_ceiling_s)


class Watchdog:
    """Of one rank. `phase` is called by the main thread alone."""

    def __init__(
        self,
        config: WatchdogConfig,
        folder: RunFolder,
        rank: int,
        *,
        control: Control | None = None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Starts in phase "start". `end` ends the process at once with an exit code."""
        self._config, self._folder, self._rank, self._control, self._end = config, folder, rank, control, end
        self._host = socket.gethostname()
        self._main = threading.main_thread().ident
        self._steps = StepLimit(config)
        self._attempt = 0
        self._stacks: TextIO | None = None
        self._now: tuple[Phase, int, float, float] = ("start", 0, time.monotonic(), config.start_s)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def opened(self, attempt: int) -> None:
        """The run's folder is there: heartbeats and stacks go into it from now on."""
        self._attempt = attempt
        self._folder.heartbeats.mkdir(parents=True, exist_ok=True)
        self._folder.logs.mkdir(parents=True, exist_ok=True)
        self._stacks = open(self._folder.stacks(self._rank), "a", encoding="utf-8")  # noqa: SIM115 - till the end
        self._beat()
        self._arm()

    def phase(self, name: Phase, step: int = 0) -> None:
        """The main thread begins something else; the step that ended teaches how long a step takes."""
        before, _, since, _ = self._now
        now = time.monotonic()
        if before == "step":
            self._steps.add(now - since)
        limits = {
            "start": self._config.start_s,
            "step": self._steps.limit_s(),
            "evaluate": self._config.evaluate_s,
            "save": self._config.save_s,
            "end": self._config.save_s,
        }
        self._now = (name, step, now, limits[name])
        self._arm()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        with suppress(OSError):
            self._beat_file().unlink(missing_ok=True)
        if self._stacks is not None:
            self._stacks.close()
            with suppress(OSError):
                if self._folder.stacks(self._rank).stat().st_size == 0:
                    self._folder.stacks(self._rank).unlink()

    # --- the thread ---

    def _watch(self) -> None:
        beaten = 0.0
        while not self._over.wait(POLL_S):
            if self._control is not None and self._control.asked("end"):
                self._end(HUNG)
            if time.monotonic() - beaten >= self._config.heartbeat_s:
                self._beat()
                beaten = time.monotonic()
            _, _, since, limit_s = self._now
            if self._config.enabled and time.monotonic() - since > limit_s:
                self._strike()
                return

    def _strike(self) -> None:
        """Say all that can be said, then end this rank: the launcher and the supervisor see to the others."""
        phase, step, since, limit_s = self._now
        self._beat(struck=True)
        self._dump_stacks()
        time.sleep(GATHER_S)
        beats = self.heartbeats()
        verdict = who_did_not_arrive(beats, now=time.time(), stale_s=3 * self._config.heartbeat_s + GATHER_S)
        text = (
            f"no end of {phase} {step or ''}".rstrip()
            + f" within {limit_s:.0f} s ({time.monotonic() - since:.0f} s by now): {verdict}"
        )
        logger.critical("%s; stacks in %s", text, self._folder.stacks(self._rank))
        for beat in beats:
            logger.critical("%s", told(beat))
        if self._control is not None:
            self._control.fail(Failure(self._rank, self._host, "hang", text, time.time()))
        self._end(HUNG)

    def heartbeats(self) -> list[Heartbeat]:
        """Of all ranks of this attempt, by rank."""
        return read_heartbeats(self._folder, self._attempt)

    def _beat(self, *, struck: bool = False) -> None:
        if not self._folder.heartbeats.is_dir():
            return
        phase, step, _, _ = self._now
        collective, place = whereabouts(sys._current_frames().get(self._main or 0))
        beat = Heartbeat(
            self._rank,
            self._host,
            os.getpid(),
            self._attempt,
            phase,
            step,
            collective,
            place,
            struck,
            time.time(),
        )
        path = self._beat_file()
        with suppress(OSError):  # not flushed to the disk: it is of no use after a crash of the machine
            path.with_suffix(".tmp").write_text(json.dumps(asdict(beat)))
            os.replace(path.with_suffix(".tmp"), path)

    def _beat_file(self) -> Path:
        return self._folder.heartbeats / f"rank-{self._rank:05d}.json"

    def _arm(self) -> None:
        if self._config.enabled and self._stacks is not None:
            _, _, _, limit_s = self._now
            faulthandler.dump_traceback_later(limit_s + HARD_S, exit=True, file=self._stacks)

    def _dump_stacks(self) -> None:
        if self._stacks is None:
            return
        faulthandler.dump_traceback(file=self._stacks, all_threads=True)
        self._stacks.flush()
        pyspy = shutil.which("py-spy")  # also shows the C++ frames, where it is installed and allowed
        if pyspy is not None:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    [pyspy, "dump", "--native", "--pid", str(os.getpid())],
                    stdout=self._stacks,
                    stderr=self._stacks,
                    timeout=20,
                )
        _dump_flight_recorder(self._folder.logs / f"flight-recorder-{self._rank:04d}.json")


def whereabouts(frame: FrameType | None) -> tuple[str, str]:
    """(collective, place) of a thread, from its innermost frame outwards."""
    collective, place = "", ""
    while frame is not None and not place:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if (not collective and path.endswith(COLLECTIVES)) or (path == OURS and name == "finish"):
            collective = name
        if path.startswith(HERE) and path != CLOCK:  # which times the wait, wherever that is
            place = f"{path.removeprefix(HERE)}:{frame.f_lineno} {name}"
        frame = frame.f_back
    return collective, place


def who_did_not_arrive(beats: Sequence[Heartbeat], *, now: float, stale_s: float) -> str:
    """Names the ranks that the others wait for.

    In this order: those that are silent (stopped, or dead), those in an earlier step, those that wait in no
    collective while others do; if all wait alike, nobody can be named.
    """
    silent = [beat for beat in beats if now - beat.unix > stale_s]
    if silent:
        silence_s = now - min(beat.unix for beat in silent)
        return f"{_names(silent)} silent for {silence_s:.0f} s, last {told(silent[0])}"
    behind = [beat for beat in beats if beat.step < max(b.step for b in beats)]
    if behind:
        return f"{_names(behind)} did not arrive, {told(behind[0])}"
    waiting = [beat for beat in beats if beat.collective]
    elsewhere = [beat for beat in beats if not beat.collective]
    if waiting and elsewhere:
        where = f"the others wait in {waiting[0].collective}"
        return f"{_names(elsewhere)} did not arrive, {told(elsewhere[0])}; {where}"
    if waiting:
        return f"all ranks wait in {', '.join(sorted({b.collective for b in waiting}))}: is it the network?"
    return f"no rank waits for another; {told(beats[0])}" if beats else "no rank tells where it is"


def told(beat: Heartbeat) -> str:
    """A rank's place in words."""
    doing = f"waits in {beat.collective}" if beat.collective else "computes, reads or hangs"
    place = beat.place or "an unknown place"
    return f"rank {beat.rank} on {beat.host}: {beat.phase} {beat.step}, {doing} at {place}"


def read_heartbeats(folder: RunFolder, attempt: int) -> list[Heartbeat]:
    found = []
    for path in sorted(folder.heartbeats.glob("rank-*.json")):
        with suppress(OSError, ValueError, TypeError):
            beat = built(Heartbeat, parse_record(read_file(path)))
            if beat.attempt == attempt:
                found.append(beat)
    return found


def _names(beats: Iterable[Heartbeat]) -> str:
    ranks = [f"{beat.rank} ({beat.host})" for beat in beats]
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(ranks[:8])}{more}"


def _dump_flight_recorder(path: Path) -> None:
    """The record of NCCL's last collectives; on GPUs, where TORCH_FR_BUFFER_SIZE keeps one."""
    import torch

    dump = getattr(torch._C._distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None or not torch.cuda.is_available():
        return
    with suppress(OSError, RuntimeError):
        path.write_bytes(dump())
