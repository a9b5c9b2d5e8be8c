"""Work over processes with results in order, and processes that never outlive the one that started them."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.pool
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Map:
    """Applies a function to tasks, in a pool's processes or here; results come in the tasks' order."""

    def __init__(self, processes: multiprocessing.pool.Pool | None) -> None:
        self._processes = processes

    def __call__(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        return map(function, tasks) if self._processes is None else self._processes.imap(function, tasks)


@contextmanager
def pool(workers: int) -> Iterator[Map]:
    """A map over so many processes (0: one a core); in this process when that is one."""
    count = workers or len(os.sched_getaffinity(0))
    if count == 1:
        yield Map(None)
        return
    # Not fork: the caller may have threads (Arrow and torch start some).
    with multiprocessing.get_context("spawn").Pool(count, _begin) as processes:
        yield Map(processes)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
