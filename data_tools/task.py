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

import xxhash

from data_tools.config import DataConfig
from megatrain import faults
from megatrain.durable import hash_file, sync_folder, write_durably
from megatrain.errors import FailedWork, UserError
from megatrain.output import require_utf8, say
from megatrain.records import check_seal, parse_record, read_file, write_sealed

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
    lines = "".join(json.dumps(task) + "\n" for task in tasks).encode()
    write_durably(folder / "tasks.jsonl", lines)
    tree = {"kind": kind, "config": config.model_dump(mode="json"), "shared": shared}
    write_sealed(folder / "stage.json", {**tree, "tasks_xxh3": xxhash.xxh3_128_hexdigest(lines)})


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
    """What a task that is done gave. Raises FailedWork where that is damaged."""
    path = stage / f"{number:05d}" / RESULT
    try:
        return dict(_read_result(path)["result"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise FailedWork(
            f"{path}: damaged ({error}); run the same command again: the task is done again"
        ) from None


def discard_damaged(stage: Path, number: int) -> str | None:
    """Remove what a task left if it is not what the task wrote, so that it is done again; gives the fault.

    Work that was cut off may have lain there for long, and on a disk that was full or failing.
    """
    place = stage / f"{number:05d}"
    try:
        fault = _fault_of(place)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{place / RESULT}: damaged ({error})"
    if fault is not None:
        shutil.rmtree(place)
    return fault


def error_of(stage: Path, number: int) -> UserError | FailedWork | None:
    """What ended a task that ran by itself; None where it has not failed."""
    path = stage / f"{number:05d}.error"
    try:
        tree = parse_record(read_file(path))
        return (UserError if tree["user"] else FailedWork)(str(tree["message"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError) as error:
        return FailedWork(f"{path}: the task failed, and why cannot be read ({error})")


def _read_result(path: Path) -> dict[str, Any]:
    tree = parse_record(read_file(path))
    check_seal(tree, required=True)
    return tree


def _fault_of(place: Path) -> str | None:
    for name, looks in _read_result(place / RESULT)["files"].items():
        path = place / name
        if path.stat().st_size != looks["bytes"] or hash_file(path) != looks["xxh3"]:
            return f"{path}: changed since it was written"
    return None


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
    files = {}
    for path in sorted(room.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "xxh3": hash_file(path)}
    write_sealed(room / RESULT, {"files": files, "result": result})
    sync_folder(room)
    try:
        os.rename(room, place)
    except OSError:
        if not place.is_dir():  # else the same task has ended elsewhere, with the same result
            raise
    sync_folder(place.parent)


@lru_cache(maxsize=4)
def _read_stage(folder: Path) -> tuple[Stage, list[str]]:
    path = folder / "stage.json"
    try:
        tree = parse_record(read_file(path))
        check_seal(tree, required=True)
        content = read_file(folder / "tasks.jsonl")
        if xxhash.xxh3_128_hexdigest(content) != tree["tasks_xxh3"]:
            raise ValueError("tasks.jsonl is another")
    except (ValueError, LookupError) as error:
        raise FailedWork(f"{path}: damaged ({error}); run the same command again") from None
    config = DataConfig.model_validate(tree["config"])
    return Stage(folder, tree["kind"], config, tree["shared"]), content.decode().split("\n")[:-1]


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
        say(f"megatrain: {error}")
        tree = {"user": isinstance(error, UserError), "message": str(error)}
        write_durably(stage / f"{number:05d}.error", json.dumps(tree).encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    require_utf8(os.environ)
    sys.exit(main(sys.argv[1:]))
