"""How long this rank stands in collectives, waiting for the other ranks or for the network.

With gloo a thread that asked for a collective stands in `Work.wait` until it is over: every call of
torch.distributed ends there, and so do DeepSpeed's. With NCCL the GPU waits and the thread goes on, and code
that torch.compile has made waits outside Python: there is nothing to time, and no figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist


@dataclass
class Waits:
    """What one thread has waited since it began to be timed."""

    seconds: float = 0.0
    count: int = 0


@contextmanager
def timed_waits() -> Iterator[Waits]:
    """Time the waits of the thread that calls this; other threads, those of a save for instance, go by."""
    waits, real, thread = Waits(), dist.Work.wait, threading.get_ident()

    def wait(self: dist.Work, *args: Any, **options: Any) -> bool:
        if threading.get_ident() != thread:
            return real(self, *args, **options)
        begun = time.perf_counter()
        try:
            return real(self, *args, **options)
        finally:
            waits.seconds += time.perf_counter() - begun
            waits.count += 1

    dist.Work.wait = wait  # type: ignore[method-assign]
    try:
        yield waits
    finally:
        dist.Work.wait = real  # type: ignore[method-assign]
