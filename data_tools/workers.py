"""Work over processes with results in order, and processes that never outlive the one that started them."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from megatrain.errors import FailedWork

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
# Tasks begun ahead of the result that is asked for, a process: bounds the memory of results.
_AHEAD = 4


class Map:
    """Applies a function to tasks, in other processes or here; results come in the tasks' order."""

    def __init__(self, executor: ProcessPoolExecutor | None, workers: int) -> None:
        self._executor, self._workers = executor, workers

    def __call__(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Raises what the function raises, and FailedWork where a process was killed."""
        if self._executor is None:
            yield from map(function, tasks)
            return
        begun: deque[Future[_Result]] = deque()
        try:
            for task in tasks:
                begun.append(self._executor.submit(function, task))
                if len(begun) > _AHEAD * self._workers:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BrokenProcessPool:
            raise FailedWork(
                "a worker process was killed, most often for lack of memory; lower `workers` and run again"
            ) from None


@contextmanager
def pool(workers: int) -> Iterator[Map]:
    """A map over so many processes (0: one a core); in this process when that is one."""
    count = workers or len(os.sched_getaffinity(0))
    if count == 1:
        yield Map(None, 1)
        return
    others = set(multiprocessing.active_children())
    # Not fork: the caller may have threads (Arrow and torch start some).
    executor = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin)
    try:
        yield Map(executor, count)
    except BaseException:
        # Nobody waits for what they do: a large file would hold up the end for minutes.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
