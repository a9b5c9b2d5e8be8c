"""One task of a stage: what it reads, what it leaves, and how it runs wherever it is.

A stage is a folder: `stage.json` (its kind, the config, what else its tasks share), `tasks.jsonl` (a line
for each task), and a folder for each task that is done. A task works in a folder of its own and renames it
when all in it is flushed: a result is there whole or not at all, and of two runs of one task the first to
end counts.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.config import DataConfig
from megatrain import faults
from megatrain.durable import sync_folder, write_durably
from megatrain.errors import FailedWork, UserError

RESULT = "result.json"


@dataclass(frozen=True)
class Stage:
    """What the tasks of a stage share."""

    folder: Path
    kind: str
    config: DataConfig
    shared: Mapping[str, Any]


Work = Callable[[Stage, Mapping[str, Any], Path], Mapping[str, Any]]
"""(stage, the task, an empty folder to fill) → the result, as JSON values."""


def write_stage(
    folder: Path, kind: str, config: DataConfig, shared: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]
) -> None:
    """Put a stage on disk for its tasks to read; those that are done stay."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks)
    write_durably(folder / "tasks.jsonl", lines.encode())
    tree = {"kind": kind, "config": config.model_dump(mode="json"), "shared": shared}
    write_durably(folder / "stage.json", json.dumps(tree, ensure_ascii=False).encode())


def run(place: tuple[str, int]) -> int:
    """Run the task (stage's folder, number), unless it is done; gives its number."""
    folder, number = Path(place[0]), place[1]
    if is_done(folder, number):
        return number
    stage, tasks = _read_stage(folder)
    room = folder / f".{number:05d}.{socket.gethostname()}.{os.getpid()}"
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    try:
        result = _work(stage.kind)(stage, json.loads(tasks[number]), room)
        _put_in_place(room, folder / f"{number:05d}", result)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise FailedWork(f"{stage.kind}, task {number}: {what}; mend it and run again to go on") from None
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return number


def is_done(stage: Path, number: int) -> bool:
    return (stage / f"{number:05d}").is_dir()


def result_of(stage: Path, number: int) -> dict[str, Any]:
    """What a task that is done gave."""
    tree: dict[str, Any] = json.loads((stage / f"{number:05d}" / RESULT).read_text(encoding="utf-8"))
    return tree


def error_of(stage: Path, number: int) -> UserError | FailedWork | None:
    """What ended a task that ran by itself; None where it has not failed."""
    try:
        tree = json.loads((stage / f"{number:05d}.error").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return (UserError if tree["user"] else FailedWork)(tree["message"])


def sweep(stage: Path) -> None:
    """Remove what tasks that were cut off left behind, and what was told of failures; none may be running.

    A room is renamed first: should its task live a moment longer, it finds the room gone, never half of it.
    """
    for path in stage.glob("*.error"):
        path.unlink()
    for path in stage.glob(".[0-9]*"):
        swept = path.with_name(f".swept{path.name}")
        os.rename(path, swept)
    for path in stage.glob(".swept*"):
        shutil.rmtree(path, ignore_errors=True)


def _put_in_place(room: Path, place: Path, result: Mapping[str, Any]) -> None:
    faults.point("data.task", rank=int(place.name))
    for path in room.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_durably(room / RESULT, json.dumps(result, ensure_ascii=False).encode())
    sync_folder(room)
    try:
        os.rename(room, place)
    except OSError:
        if not place.is_dir():  # else the same task has ended elsewhere, with the same result
            raise
    sync_folder(place.parent)


@lru_cache(maxsize=4)
def _read_stage(folder: Path) -> tuple[Stage, list[str]]:
    tree = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
    config = DataConfig.model_validate(tree["config"])
    tasks = (folder / "tasks.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return Stage(folder, tree["kind"], config, tree["shared"]), tasks


def _work(kind: str) -> Work:
    """Imported when it runs: the submitting side needs none of it."""
    match kind:
        case "collect":
            from data_tools.collect import collect

            return collect
        case "match" | "cluster" | "choose" | "repeats":
            from data_tools import duplicate_tasks

            works: Mapping[str, Work] = {
                "match": duplicate_tasks.match,
                "cluster": duplicate_tasks.cluster,
                "choose": duplicate_tasks.choose,
                "repeats": duplicate_tasks.repeats,
            }
            return works[kind]
        case "tokenize":
            from data_tools.tokenize import tokenize

            return tokenize
        case "shards":
            from data_tools.shards import write

            return write
        case _:
            raise ValueError(f"no such kind of stage: {kind}")


def main(arguments: Sequence[str]) -> int:
    """`STAGE NUMBER`: run one task by itself, as a batch system does; its error stays beside the result."""
    stage, number = Path(arguments[0]), int(arguments[1])
    try:
        run((str(stage), number))
    except (UserError, FailedWork) as error:
        print(f"megatrain: {error}", file=sys.stderr)
        tree = {"user": isinstance(error, UserError), "message": str(error)}
        write_durably(stage / f"{number:05d}.error", json.dumps(tree).encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
