"""Named points at which a fault can be rehearsed; each costs one look-up of an absent variable when off.

Asked for by the config (`faults: [{at: step, step: 20, rank: 1, do: kill}]`) or by the environment:
MEGATRAIN_FAULT="point=checkpoint.write,rank=1,hit=2,do=kill" makes rank 1 end itself with SIGKILL the second
time it comes to the point. hit=2+: also at each time after; step=20: in that step, whatever the hit;
attempt=1: in the first start alone. Several faults are parted by `;`.

do: kill, crash (an exception), full (OSError: no space left), hang, slow (waits for seconds=1), disconnect
(all network connections of the rank are shut down). At the points `loss` and `gradient`: nan, spike; at
`weights`: flip (a bit).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

VARIABLE = "MEGATRAIN_FAULT"
_ATTEMPT = "MEGATRAIN_FAULT_ATTEMPT"
_STEP = "MEGATRAIN_FAULT_STEP"
_hits: Counter[str] = Counter()

POINTS = (
    "forward",
    "step",
    "saved",
    "loss",
    "gradient",
    "weights",
    "checkpoint.write",
    "checkpoint.written",
    "checkpoint.commit",
    "checkpoint.committed",
    "checkpoint.prune",
    "rollback.recorded",
    "rollback.done",
    "data.task",
)
TRAINING = tuple(point for point in POINTS if not point.startswith("data."))
"""The points of a run; the others are those of preparing data."""
ACTIONS = ("kill", "crash", "full", "hang", "slow", "disconnect")
NUMBERS = {"loss": ("nan", "spike"), "gradient": ("nan", "spike"), "weights": ("flip",)}
"""What only the caller can do to its numbers, by point."""


class InjectedFault(RuntimeError):
    """The crash that was asked for."""


def arm(wishes: Sequence[Mapping[str, object]]) -> None:
    """Ask for the faults of a config, besides those of the environment."""
    told = [",".join(f"{key}={value}" for key, value in wish.items()) for wish in wishes]
    if told:
        os.environ[VARIABLE] = ";".join(filter(None, (os.environ.get(VARIABLE), *told)))


def begin(attempt: int) -> None:
    """Which start of the run this is."""
    if VARIABLE in os.environ:
        os.environ[_ATTEMPT] = str(attempt)


def now(step: int) -> None:
    """Which step begins."""
    if VARIABLE in os.environ:
        os.environ[_STEP] = str(step)


def point(name: str, *, rank: int) -> None:
    """A place in the code where a rehearsed fault may strike."""
    for wish in _struck(name, rank):
        match wish.get("do", "kill"):
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "crash":
                raise InjectedFault(f"asked for at {name}")
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "hang":
                time.sleep(1 << 20)
            case "slow":
                time.sleep(float(wish.get("seconds", 1)))
            case "disconnect":
                _disconnect()
            case other:
                raise ValueError(f"{VARIABLE}: do={other} is none of {', '.join(ACTIONS)}")


def wanted(name: str, *, rank: int) -> str | None:
    """Like `point`, for what only the caller can do to its numbers: gives the `do`, or None."""
    return next((wish.get("do") for wish in _struck(name, rank)), None)


def _struck(name: str, rank: int) -> list[dict[str, str]]:
    """The wishes for this place, rank and moment."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return []
    _hits[name] += 1
    wishes = [dict(item.split("=", 1) for item in one.split(",")) for one in asked.split(";")]
    return [wish for wish in wishes if _is_for(wish, name, rank, _hits[name])]


def _is_for(wish: Mapping[str, str], name: str, rank: int, count: int) -> bool:
    here = wish.get("point") == name and int(wish.get("rank", rank)) == rank
    if not here or wish.get("attempt", os.environ.get(_ATTEMPT, "1")) != os.environ.get(_ATTEMPT, "1"):
        return False
    if "step" in wish:
        return wish["step"] == os.environ.get(_STEP)
    hit, onwards = wish.get("hit", "1").removesuffix("+"), wish.get("hit", "1").endswith("+")
    return count == int(hit) or (onwards and count > int(hit))


def _disconnect() -> None:
    """Shut down every connection of this process, as a network that is lost with a reset does."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue  # a copy of it would stay open, and a pipe would never end
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    connection.shutdown(socket.SHUT_RDWR)
