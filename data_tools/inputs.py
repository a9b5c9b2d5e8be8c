"""The raw files of a preparation: which they are, how they are divided into tasks, whether they have
changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.config import DataConfig
from data_tools.readers import InputPart, look_for_files, require_readable, split, told_left_out
from data_tools.readers.raw import local_path
from data_tools.readers.unchanged import look_at, require_same
from megatrain.errors import FailedWork, require

_TASKS_A_SOURCE = 64
_MIB = 1 << 20
_LEAST_MIB, _MOST_MIB = 4, 256


class ReplacedFile(FailedWork):
    """A raw file has another content and the same size and time, by which results of tasks are known."""


@dataclass(frozen=True)
class Inputs:
    """What each source reads, in order."""

    config: DataConfig
    files: Mapping[str, Sequence[InputPart]]
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each source how many files in its folders were not taken, by why."""

    def notes(self) -> list[str]:
        """What was left out, a line for each source."""
        return [
            f"sources.{name}: left out of its folders: {told_left_out(left_out)}"
            for name, left_out in self.left_out.items()
            if left_out
        ]

    def stats(self) -> dict[str, dict[str, Any]]:
        """What tells by a look whether a file is the same as before, by its URL."""
        return {
            file.url: {"bytes": file.bytes, "modified": file.modified}
            for files in self.files.values()
            for file in files
        }

    def tasks(self) -> list[dict[str, Any]]:
        """Runs of files of one source, or of parts of large ones, a task each."""
        tasks: list[dict[str, Any]] = []
        for name, files in self.files.items():
            limit, room = self._task_bytes(files), 0
            source = self.config.sources[name]
            for part in (part for file in files for part in split(file, source, name, limit)):
                if room < part.bytes or not tasks or tasks[-1]["source"] != name:
                    tasks.append({"source": name, "parts": []})
                    room = limit
                tasks[-1]["parts"].append(dataclasses.asdict(part))
                room -= part.bytes
        return tasks

    def _task_bytes(self, files: Sequence[InputPart]) -> int:
        total = sum(file.bytes for file in files)
        share = min(max(total // _TASKS_A_SOURCE, _LEAST_MIB * _MIB), _MOST_MIB * _MIB)
        return self.config.task_mib * _MIB or share


def find_inputs(config: DataConfig) -> Inputs:
    """Look for every source's files. Raises UserError where one has none that can be read."""
    found = {name: look_for_files(name, source) for name, source in config.sources.items()}
    for name, one in found.items():
        require_readable(name, config.sources[name], one.parts)
    return Inputs(
        config,
        {name: one.parts for name, one in found.items()},
        {name: one.left_out for name, one in found.items()},
    )


def recorded(inputs: Inputs, read: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """What an output remembers of its raw files: their looks, and the hash of each part that was `read`."""
    files: dict[str, dict[str, Any]] = {url: {**stat, "parts": []} for url, stat in inputs.stats().items()}
    for url, *part in read:
        files[url]["parts"].append(part)
    return files


def require_unchanged_since(read: Sequence[Sequence[Any]], looks: Mapping[str, Sequence[Any]]) -> None:
    """Raise FailedWork where a local file is no longer what it was when a task had read parts of it.

    read: [url, start, bytes, hash] of each part. Where only the inode is another, which some network file
    systems change by themselves, the content is compared.
    """
    for url, (size, modified, inode) in looks.items():
        now = look_at(local_path(url))
        require_same(url, (size, str(modified)), (now.bytes, str(now.modified)))
        if now.inode != inode:
            for start, count, said in (part for of, *part in read if of == url):
                if InputPart(url, count, "", start).content_hash() != said:
                    raise ReplacedFile(
                        f"{url}: was replaced by another file while the work ran; run the same command again"
                    )


def require_same_inputs(
    folder: Path, before: Mapping[str, Mapping[str, Any]], inputs: Inputs, mend: str
) -> None:
    """Raise UserError where a file was added, left out or changed since an output was made."""
    now = {file.url: file for files in inputs.files.values() for file in files}
    changed = sorted(before.keys() ^ now.keys()) or [
        url for url, file in now.items() if _changed(before[url], file)
    ]
    require(
        not changed, f"{folder}: was prepared from other files ({', '.join(changed[:3])} differs); {mend}"
    )


def _changed(before: Mapping[str, Any], file: InputPart) -> bool:
    if before["bytes"] != file.bytes:
        return True
    if before["modified"] == file.modified:
        return False
    # A fresh clone has other times and the same content: only then is it worth the reading.
    try:
        return any(
            found is None or dataclasses.replace(file, start=start, bytes=size).content_hash() != found
            for start, size, found in before["parts"]
        )
    except FailedWork:
        return True
