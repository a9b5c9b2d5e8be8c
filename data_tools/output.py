"""The output folder as a whole: made beside its place, moved there when complete, one maker at a time."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_tools.beside import BESIDE, PREPARED, UNFINISHED, looks_beside
from megatrain.durable import sync_folder, write_durably
from megatrain.errors import FailedWork, UserError, require
from megatrain.records import check_seal, parse_record, read_file, write_sealed


def placed(output: str | Path) -> Path:
    """Where an output really goes: links lead to what they name. Raises UserError where that
    is no folder that could be made."""
    path = Path(output)
    if path.is_symlink() or ".." in path.parts:
        path = path.resolve()
    require(
        path.name not in ("", "..") and path.resolve() != Path.cwd(),
        f"output ({output}): names no folder that could be made anew; choose another",
    )
    for hidden in (f".{path.name}.work", f".{path.name}.partial"):
        require(
            path.with_name(hidden).is_dir() or not path.with_name(hidden).exists(),
            f"output ({output}): {path.with_name(hidden)} is a file, where work would lie; move it away",
        )
    return path


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the one lock on an output folder; death releases it.

    Raises UserError where another process holds it, or nothing can be written there.
    """
    path = output.with_name(f".{output.name}.lock")
    while True:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"output ({output}): cannot be written: {error.strerror}; choose another"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise UserError(
                f"{output}: another preparation into it is running; wait for it or stop it"
            ) from None
        # The last holder may have removed the file between our opening and locking it: then it locks nothing.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            break
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink()
        os.close(descriptor)


def workshop(output: Path) -> Path:
    """The folder where stages leave their results until the output is complete; kept when a run is cut
    off."""
    work = output.with_name(f".{output.name}.work")
    work.mkdir(exist_ok=True)
    return work


def begin(output: Path) -> Path:
    """An empty folder to put the output together in; what an interrupted run left there is removed."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    return partial


@contextmanager
def making(output: Path) -> Iterator[Path]:
    """An empty folder to put an output together in, which is gone again if that fails.

    Raises FailedWork, naming the output, where the disk does not take it.
    """
    partial = begin(output)
    try:
        yield partial
    except OSError as error:
        raise FailedWork(f"{output}: cannot be written: {error.strerror or error}; nothing is left") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # where it was committed it is no longer there


def commit(partial: Path, output: Path, record: Mapping[str, Any]) -> None:
    """Write the record and move the whole to its place; an older output is there until then."""
    write_record(partial, record)
    if output.exists():
        old = output.with_name(f".{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(output, old)
        os.rename(partial, output)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(partial, output)
    sync_folder(output.parent)


def mark_unfinished(folder: Path) -> None:
    """Say of a dataset that it is about to change, until `write_record` says what it is then."""
    write_durably(folder / UNFINISHED, b"Sources are being added; run the same command again to go on.\n")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Say what the folder holds, and that it is complete."""
    told = {**record, BESIDE: looks_beside(folder, record.get(BESIDE, {}))}
    write_sealed(folder / PREPARED, told)
    (folder / UNFINISHED).unlink(missing_ok=True)


def read_record(output: Path) -> dict[str, Any] | None:
    """The record of a complete output, or None where there is no output.

    Raises UserError where the folder holds something else, FailedWork where the record is damaged.
    """
    path = output / PREPARED
    try:
        record = parse_record(read_file(path))
        check_seal(record, required=BESIDE in record)  # those from before it had neither
    except FileNotFoundError:
        empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
        require(empty, f"{output}: exists and is not a prepared dataset; choose another output, or remove it")
        return None
    except NotADirectoryError:
        raise UserError(f"output ({output}): is a file; choose another output") from None
    except OSError as error:
        raise FailedWork(
            f"{path}: cannot be read: {error.strerror}; restore it, or remove {output}"
        ) from None
    except ValueError as error:
        raise FailedWork(f"{path}: damaged: {error}; remove {output}, or restore this file") from None
    config = record.get("config")
    if not isinstance(config, dict):
        raise FailedWork(f"{path}: damaged: no config in it; remove {output}, or restore this file")
    require(
        isinstance(config.get("sources"), dict) and {"pipeline_version", "inputs", "files"} <= set(record),
        f"{output}: was imported, not prepared; choose another output, or remove it",
    )
    return record


def difference(old: Any, new: Any, at: str = "") -> str | None:
    """The first key in which two trees differ, with both values; None where they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            below = f"{at}.{key}" if at else str(key)
            if found := difference(old.get(key), new.get(key), below):
                return found
        return None
    return None if old == new else f"{at}: {_shown(old)} there, {_shown(new)} now"


def _shown(value: Any) -> str:
    """A value, or the beginning of a long one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]} ..."
