"""A notice board of all ranks beside the step's collectives: who writes in the background tells the others
here.

Collectives need every rank at the same place at the same time, and one that fails breaks its group. A board
needs neither: notes are posted and read whenever somebody has got so far, and a note that does not come is a
time-out that can be tried again. It is the key-value store that the process group was made with, over a
connection of its own.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d


class Board:
    """Notes by name; each is posted once and read by anyone. One thread reads at a time, others may post."""

    def __init__(self, world_size: int) -> None:
        self._notes: dict[str, str] = {}
        self._posted = threading.Condition()
        self._writer: Any = None
        self._reader: Any = None
        if world_size > 1:
            assert dist.is_initialized()
            # Connections of its own: whoever waits on one holds up all others that use it.
            store: Any = c10d._get_default_store()
            self._writer, self._reader = store.clone(), store.clone()

    def post(self, name: str, text: str) -> None:
        """Raises OSError when the board is gone."""
        if self._writer is None:
            with self._posted:
                self._notes[name] = text
                self._posted.notify_all()
            return
        try:
            self._writer.set(name, text)
        except RuntimeError as error:
            raise OSError(f"rank 0 cannot be reached: {error}") from None

    def read(self, name: str, timeout_s: float) -> str:
        """Wait for a note. Raises TimeoutError when it does not come, OSError when the board is gone."""
        if self._writer is None:
            with self._posted:
                if not self._posted.wait_for(lambda: name in self._notes, timeout_s):
                    raise TimeoutError(f"no {name} within {timeout_s:g} s")
                return self._notes[name]
        try:
            self._reader.wait([name], timedelta(seconds=timeout_s))
            return str(self._reader.get(name), "utf-8")
        except dist.DistStoreError as error:
            raise TimeoutError(f"no {name} within {timeout_s:g} s: {error}") from None
        except RuntimeError as error:
            raise OSError(f"rank 0 cannot be reached: {error}") from None

    def take_down(self, name: str) -> None:
        """Of a note that everybody has read."""
        if self._writer is None:
            self._notes.pop(name, None)
        else:
            self._writer.delete_key(name)
