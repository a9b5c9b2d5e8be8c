"""A stage brought to its end: its tasks written down, the unfinished ones run, their results read in
order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from data_tools import task as tasks_of
from data_tools.config import DataConfig
from data_tools.engines import Engine
from data_tools.progress import Progress

_READERS = 8


@dataclass(frozen=True)
class Workshop:
    """Where the stages of a preparation are made, and by what."""

    folder: Path
    config: DataConfig
    run: Engine
    progress: Progress

    def stage(
        self, kind: str, tasks: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], decides: Any
    ) -> tuple[str, list[dict[str, Any]]]:
        """Run the tasks that are not done; gives the stage's name, a folder here, and all results in order.

        The name has the hash of what the results depend on: the tasks, what they share, and what `decides`
        adds. A folder of that name holds results of the same work, begun by a run that was cut off.
        """
        name = f"{kind}-{key_of(tasks, shared, decides)}"
        folder = self.folder / name
        tasks_of.write_stage(folder, kind, self.config, shared, tasks)
        self._discard_damaged(folder, kind, len(tasks))
        left = [number for number in range(len(tasks)) if not tasks_of.is_done(folder, number)]
        if len(left) < len(tasks):
            self.progress.note(f"{kind}: {len(tasks) - len(left):,} of {len(tasks):,} tasks were done before")
        for _ in self.progress.track(f"{kind}, tasks", self.run(folder, left), len(left)):
            pass
        return name, [tasks_of.result_of(folder, number) for number in range(len(tasks))]

    def _discard_damaged(self, folder: Path, kind: str, tasks: int) -> None:
        done = [number for number in range(tasks) if tasks_of.is_done(folder, number)]
        with ThreadPoolExecutor(_READERS) as pool:  # they wait for the disk, and hash without the lock
            for fault in pool.map(lambda number: tasks_of.discard_damaged(folder, number), done):
                if fault is not None:
                    self.progress.note(f"warning: {kind}: {fault}; the task is done again")


def key_of(*parts: Any) -> str:
    """A short hash of JSON values."""
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode())
