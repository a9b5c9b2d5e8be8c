"""The raw files of a preparation: which they are, how they are divided into tasks, whether they have
changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.config import DataConfig
from data_tools.readers import InputPart, find_files
from megatrain.errors import require

_TASKS_A_SOURCE = 64
_MIB = 1 << 20
_LEAST_MIB, _MOST_MIB = 1, 256


@dataclass(frozen=True)
class Inputs:
    """What each source reads, in order."""

    parts: Mapping[str, Sequence[InputPart]]

    def stats(self) -> dict[str, dict[str, Any]]:
        """What tells by a look whether a file is the same as before, by its URL."""
        return {
            part.url: {"bytes": part.bytes, "modified": part.modified}
            for parts in self.parts.values()
            for part in parts
        }

    def tasks(self, task_mib: int) -> list[dict[str, Any]]:
        """Runs of parts of one source, a task each; 0 MiB: a 64th of the source."""
        tasks: list[dict[str, Any]] = []
        for name, parts in self.parts.items():
            total = sum(part.bytes for part in parts)
            share = min(max(total // _TASKS_A_SOURCE, _LEAST_MIB * _MIB), _MOST_MIB * _MIB)
            limit, room = (task_mib * _MIB or share), 0
            for part in parts:
                if room < part.bytes or not tasks or tasks[-1]["source"] != name:
                    tasks.append({"source": name, "parts": []})
                    room = limit
                tasks[-1]["parts"].append(dataclasses.asdict(part))
                room -= part.bytes
        return tasks


def find_inputs(config: DataConfig) -> Inputs:
    """Look for every source's files. Raises UserError where one has none that can be read."""
    return Inputs({name: find_files(name, source) for name, source in config.sources.items()})


def require_same_inputs(
    folder: Path, before: Mapping[str, Mapping[str, Any]], inputs: Inputs, mend: str
) -> None:
    """Raise UserError where a file was added, left out or changed since an output was made."""
    now = {part.url: part for parts in inputs.parts.values() for part in parts}
    changed = sorted(before.keys() ^ now.keys()) or [
        url for url, part in now.items() if _changed(before[url], part)
    ]
    require(
        not changed, f"{folder}: was prepared from other files ({', '.join(changed[:3])} differs); {mend}"
    )


def _changed(before: Mapping[str, Any], part: InputPart) -> bool:
    if before["bytes"] != part.bytes:
        return True
    # A fresh clone has other times and the same content: only then is it worth the reading.
    return bool(before["modified"] != part.modified and before["hash"] != part.content_hash())
