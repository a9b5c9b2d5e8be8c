"""Named points at which a fault can be injected; each costs one look-up of an absent variable when off.

MEGATRAIN_FAULT="point=checkpoint.write,rank=1,hit=2,do=kill" makes rank 1 end itself with SIGKILL the second
time it comes to the point; hit=2+ also at each time after, attempt=1 in the first start alone. do: kill,
crash (an exception), full (OSError: no space left), hang, slow (waits for seconds=1). At the points `loss`
and `gradient`: nan, spike; at `weights`: flip.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter

VARIABLE = "MEGATRAIN_FAULT"
_ATTEMPT = "MEGATRAIN_FAULT_ATTEMPT"
_hits: Counter[str] = Counter()


class InjectedFault(RuntimeError):
    """The crash that was asked for."""


def begin(attempt: int) -> None:
    """Which attempt this is, for faults that are asked for in one alone."""
    if VARIABLE in os.environ:
        os.environ[_ATTEMPT] = str(attempt)


def point(name: str, *, rank: int) -> None:
    """A place in the code where a rehearsed fault may strike."""
    wish = _struck(name, rank)
    if wish is None:
        return
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
        case other:
            raise ValueError(f"{VARIABLE}: do={other} is none of kill, crash, full, hang, slow")


def wanted(name: str, *, rank: int) -> str | None:
    """Like `point`, for what only the caller can do to its numbers: gives the `do`, or None."""
    wish = _struck(name, rank)
    return wish.get("do") if wish is not None else None


def _struck(name: str, rank: int) -> dict[str, str] | None:
    """The wish for a fault, if it is for this place, rank and moment."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return None
    _hits[name] += 1
    wish = dict(item.split("=", 1) for item in asked.split(","))
    if wish.get("point") != name or int(wish.get("rank", rank)) != rank:
        return None
    if wish.get("attempt", attempt := os.environ.get(_ATTEMPT, "1")) != attempt:
        return None
    hit, onwards = wish.get("hit", "1").removesuffix("+"), wish.get("hit", "1").endswith("+")
    if _hits[name] < int(hit) or (_hits[name] > int(hit) and not onwards):
        return None
    return wish
