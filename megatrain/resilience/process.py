"""Which process is meant, on which start of which machine, and whether it has ended."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from megatrain.records import built


@dataclass(frozen=True)
class Process:
    """Names a process for ever: a number alone is given out again, and means nothing in another container."""

    pid: int
    started: str
    """Clock ticks after the boot; empty where /proc is not there."""
    world: str
    """The boot of the machine and its namespace of processes; empty where /proc is not there."""

    def has_ended(self) -> bool:
        """True only if that is certain: a process of another machine or container may be alive."""
        ours = this_process()
        if not self.world or self.world != ours.world:
            return False
        return _started(self.pid) != self.started


def process_of(tree: object) -> Process:
    """Return the process that a record names. Raises ValueError, also for numbers that mean more than one
    process to `kill`."""
    if not isinstance(tree, dict):
        raise ValueError("process is no object")
    process = built(Process, tree)
    if process.pid < 1:
        raise ValueError(f"pid is {process.pid}")
    return process


def this_process() -> Process:
    world = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        world = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return Process(os.getpid(), _started(os.getpid()), world)


def age_s() -> float:
    """Seconds since this process was started; 0 where /proc is not there."""
    with suppress(OSError, ValueError):
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        return uptime_s - int(_started(os.getpid())) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _started(pid: int) -> str:
    """When it started; empty for none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
