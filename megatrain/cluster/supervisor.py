"""`megatrain train` stays in charge: it starts the ranks by a launcher, sees them end, and starts them again.

Launchers hide exit codes and lose signals, so ranks and supervisor talk over a folder
(`resilience/control.py`). However a launch ends, when it is over no process of it lives on this machine, and
those on others have been asked to end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from megatrain.cluster.hosts import Host, answering, read_hostfile, usable
from megatrain.cluster.launchers import command_line, environment, local_world
from megatrain.config import Config
from megatrain.errors import FailedWork, UserError
from megatrain.observe.lines import Furthest
from megatrain.observe.metrics import event_record
from megatrain.observe.sinks import LineFile
from megatrain.output import say
from megatrain.resilience.alerts import LIMIT_S, alert, message
from megatrain.resilience.control import RENEW_S, Control, Failure, read_bad_hosts
from megatrain.resilience.lease import read_holder
from megatrain.resilience.process import this_process
from megatrain.state import Event, RunFolder
from megatrain.train.main import PREEMPTED

GAVE_UP = 76
POLL_S = 0.1
LEAVE_S = 30.0
"""Ranks whose launcher has ended, and that were not asked to save, are killed after this."""
MOST_DOUBLINGS = 4
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class End:
    """How one launch ended."""

    code: int | None
    """Rank 0's; None when it did not come to an end by itself."""
    asked: bool
    """We got a signal."""
    reason: str
    """What happened, in one line; for a fault."""
    lease: str | None = None
    """The key of the lease on the run that it took."""


def planned_world(config: Config) -> int:
    """How many ranks a run gets when all hosts answer. Raises UserError for a wrong hostfile."""
    if config.cluster.hostfile is None:
        return local_world(config)
    return sum(host.slots for host in read_hostfile(Path(config.cluster.hostfile)))


def supervise(config: Config, config_path: Path, overrides: Sequence[str]) -> int:
    """Train to the end; gives the exit code that `megatrain train` promises.

    0 done, 1 failed work, 2 wrong input (both were said by the ranks), 75 preempted, 76 gave up: the same
    fault came again without progress. Raises UserError before a rank starts.
    """
    folder = RunFolder(Path(config.run.folder))
    progress = Furthest(folder.metrics)
    restarts, fruitless, furthest = 0, 0, progress.step()
    rules = config.resilience.restarts
    while True:
        end = launch(config, config_path, overrides, hosts=_hosts(config))
        if end.code == PREEMPTED or (end.code is None and end.asked):
            say("megatrain: stopped; the same command goes on from the newest checkpoint")
            return PREEMPTED
        if end.code is not None:
            return end.code
        step = progress.step()
        fruitless = 0 if step > furthest else fruitless + 1
        furthest = max(step, furthest)
        if restarts >= rules.most or fruitless >= rules.without_progress:
            why = f"gave up after {restarts} restarts, {fruitless} starts in a row without progress"
            _tell(config, Event.GIVE_UP, step, f"{why}: {end.reason}", end.lease)
            return GAVE_UP if rules.most else 1
        restarts += 1
        wait_s = rules.wait_s * 2 ** min(fruitless, MOST_DOUBLINGS)
        cause = f"{end.reason}; restart {restarts} in {wait_s:g} s"
        _tell(config, Event.RESTART, step, cause, end.lease, restart=restarts)
        if _signalled_within(wait_s):
            return PREEMPTED


def launch(
    config: Config,
    config_path: Path,
    overrides: Sequence[str],
    *,
    world: int | None = None,
    hosts: Sequence[Host] = (),
    variables: Mapping[str, str] | None = None,
    output: BinaryIO | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> End:
    """Start the ranks once and wait for their end.

    SIGINT, SIGTERM and SIGUSR1 make them save and stop; a second one ends them at once. The ranks get these
    environment variables besides ours, and write to `output` instead of the terminal; `meanwhile` is called
    some times a second. Raises UserError when the port is taken.
    """
    folder = RunFolder(Path(config.run.folder))
    world = sum(host.slots for host in hosts) or world or local_world(config)
    with _control(folder) as control:
        command = command_line(
            config, config_path, overrides, world=world, control=control.folder, hosts=hosts
        )
        # A session of its own: Ctrl-C reaches us alone, and the ranks in good order through us.
        process = subprocess.Popen(
            command,
            env=environment(config, world, variables or {}, control.folder, hosts),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        asked = _wait(process, control, config.resilience.grace_s, meanwhile)
        vanished = [rank for rank, _ in control.living()]
        reason = what_happened(vanished, control.failures(), process.returncode)
        return End(control.exit_code(), asked, reason, control.lease_key())


def what_happened(vanished: Sequence[int], failures: Sequence[Failure], code: int) -> str:
    """One line on why a launch ended, from the ranks' own words; the first cause goes before what follows
    from it."""
    hung = [failure for failure in failures if failure.kind == "hang"]
    told = {failure.rank for failure in failures}
    silent = [rank for rank in vanished if rank not in told]
    if hung:
        return f"rank {hung[0].rank} on {hung[0].host}: {hung[0].text}"
    if silent:
        names = ", ".join(map(str, silent[:8])) + (" ..." if len(silent) > 8 else "")
        told_too = [f"; rank {one.rank} failed: {one.text}" for one in failures if one.kind == "failed"]
        return f"rank {names} ended without a word (killed, or out of memory?){''.join(told_too[:1])}"
    if failures:
        first = failures[0]
        return f"rank {first.rank} on {first.host} failed: {first.text}"
    return f"the launcher ended with code {code}"


@contextmanager
def _control(folder: RunFolder) -> Iterator[Control]:
    """A folder for this launch; those of supervisors that were killed go."""
    for old in folder.control.glob("launch-*"):
        if Control(old).supervisor_gone():
            Control(old).close()
    control = Control(folder.control.resolve() / f"launch-{time.time_ns()}-{os.getpid()}")
    control.open()
    try:
        yield control
    finally:
        control.close()
        for empty in (folder.control, folder.root):  # a refused start leaves nothing
            with suppress(OSError):
                empty.rmdir()


def _wait(
    process: subprocess.Popen[bytes], control: Control, grace_s: float, meanwhile: Callable[[], None]
) -> bool:
    """Until the launcher and all ranks of this machine have ended; True if a signal asked for it."""
    told, deadline, renewed = 0, float("inf"), time.monotonic()
    with _caught() as asked:
        while process.poll() is None:
            if len(asked) > told:
                told = len(asked)
                if told > 1 or not _ask_to_save(control):
                    _kill(process, control)
                deadline = time.monotonic() + grace_s
            if time.monotonic() > deadline:
                _kill(process, control)
            if time.monotonic() - renewed > RENEW_S:
                control.renew()
                renewed = time.monotonic()
                if control.exit_code() not in (None, 0, PREEMPTED):
                    # Rank 0 has failed and said so; others may wait for it in a collective.
                    deadline = min(deadline, time.monotonic() + LEAVE_S)
            meanwhile()
            time.sleep(POLL_S)
        # A launcher that was killed leaves its ranks behind: they can still save.
        leave_s = LEAVE_S
        if process.returncode < 0 and not asked and _local_ranks(control):
            _ask_to_save(control)
            leave_s = grace_s
        deadline = time.monotonic() + leave_s
        while _local_ranks(control) and time.monotonic() < deadline and len(asked) < 2:
            time.sleep(POLL_S)
        _kill(process, control)
    return bool(asked)


def _ask_to_save(control: Control) -> bool:
    """By file, and by signal where a rank is on this machine (it may not look for files yet); False without
    ranks."""
    control.ask("preempt")
    for pid in _local_ranks(control):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return any(True for _ in control.living())


def _kill(process: subprocess.Popen[bytes], control: Control) -> None:
    """The ranks of this machine, the launcher with all that it started, and by file those of other hosts."""
    control.ask("end")
    for pid in _local_ranks(control):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _local_ranks(control: Control) -> list[int]:
    """Pids of the ranks that live on this machine."""
    world = this_process().world
    return [
        process.pid for _, process in control.living() if process.world == world and not process.has_ended()
    ]


@contextmanager
def _caught() -> Iterator[list[int]]:
    """The signals that come meanwhile."""
    asked: list[int] = []

    def catch(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, catch) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signalled_within(seconds: float) -> bool:
    """Wait before a restart; True as soon as a signal comes."""
    deadline = time.monotonic() + seconds
    with _caught() as asked:
        while time.monotonic() < deadline and not asked:
            time.sleep(POLL_S)
    return bool(asked)


def _hosts(config: Config) -> list[Host]:
    """Of the hostfile, those that answer, as far as they give a valid layout; none without a hostfile."""
    if config.cluster.hostfile is None:
        return []
    hosts = read_hostfile(Path(config.cluster.hostfile))
    listed = RunFolder(Path(config.run.folder)).bad_hosts
    bad = {name.partition(".")[0] for name in read_bad_hosts(RunFolder(Path(config.run.folder)))}
    wrong = [host.name for host in hosts if host.name.partition(".")[0] in bad]
    hosts = [host for host in hosts if host.name not in wrong]
    found = answering(hosts)
    absent = [host.name for host in hosts if host not in found]
    chosen = usable(config, found)
    left_out = [host.name for host in found if host not in chosen]
    found_bad = f"were found wrong or slow ({listed}; remove a line to take one again)"
    for names, why in (
        (wrong, found_bad),
        (absent, "do not answer to ssh"),
        (left_out, "give no valid layout with the others"),
    ):
        if names:
            say(f"megatrain: left out, they {why}: {', '.join(names)}")
    return chosen


def _tell(config: Config, event: Event, step: int, cause: str, lease: str | None, **details: object) -> None:
    """On stderr, in the run's events where there is a run, and to whom the config names; on stderr alone
    where another attempt than the one with the key `lease` is running it."""
    say(f"megatrain: {event.value} at step {step}: {cause}")
    folder = RunFolder(Path(config.run.folder))
    record = event_record(event, step, cause, details, time.time())
    if _is_elsewhere(folder, lease):
        return
    if folder.root.is_dir():
        with suppress(OSError):
            file = LineFile(folder.events)
            try:
                file.append(record)
            finally:
                file.close()
    told = alert(config.resilience.alert, message(config.run.name, record))
    if event is Event.GIVE_UP:  # this process ends now
        for thread in told:
            thread.join(LIMIT_S)


def _is_elsewhere(folder: RunFolder, lease: str | None) -> bool:
    """Whether somebody else may be running it, as far as can be known."""
    try:
        holder = read_holder(folder)
    except (UserError, FailedWork):
        return False
    if holder is None or holder.released or holder.key == lease:
        return False
    return not holder.process.has_ended()
