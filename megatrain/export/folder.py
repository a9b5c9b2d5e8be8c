"""A folder that appears whole or not at all, and replaces nothing that is not ours."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatrain.durable import sync_folder
from megatrain.errors import FailedWork, UserError, require
from megatrain.export.tokenizer import write_text
from megatrain.records import check_seal, parse_record, read_file

MARKER = "megatrain-export.json"
SUMS = "SHA256SUMS"
FORMAT, VERSION = "megatrain-export", 2  # 1: without its own hash


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `out` that becomes `out` when the block ends well, or vanishes.

    An earlier export at `out` is replaced, once the new one is whole. Raises UserError before anything is
    written where `out` is something else, or another process is writing to it.
    """
    out = out.resolve()
    require_replaceable(out)
    partial, replaced = (out.with_name(f".{out.name}.{what}") for what in ("partial", "replaced"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _take(partial)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        _put_back(replaced, out)  # after a kill between the two renames below
        yield partial
        _seal(partial)
        require_replaceable(out)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        sync_folder(out.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(replaced, out)
        raise
    finally:
        os.close(lock)


def require_replaceable(out: Path) -> None:
    """Raises UserError unless `out` is absent, empty, or an export of ours with nothing added to it."""
    if not out.exists():
        return
    require(out.is_dir(), f"{out}: is a file; name another folder")
    found = {path.name for path in out.iterdir()}
    if not found:
        return
    require(
        is_export(out) and (out / SUMS).is_file(),
        f"{out}: is not an export of megatrain and is left alone; name another folder",
    )
    try:
        lines = read_file(out / SUMS).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise UserError(f"{out / SUMS}: cannot be read: {error.strerror}; name another folder") from None
    strangers = sorted(found - {line.split("  ", 1)[-1] for line in lines} - {SUMS})
    require(
        not strangers,
        f"{out}: holds{(strangers or [''])[0]}, which no export wrote; move it away",
    )


def is_export(folder: Path) -> bool:
    """Whether the folder says, in a sound record, that it is an export of megatrain."""
    try:
        return bool(origin(folder))
    except (FailedWork, UserError):
        return False


def origin(folder: Path) -> dict[str, Any]:
    """Return what an export says of its checkpoint; nothing where megatrain did not make it.

    Raises UserError for a newer version, FailedWork where it is damaged.
    """
    path = folder / MARKER
    try:
        tree = parse_record(read_file(path))
        version = tree.get("version")
        if tree.get("format") != FORMAT or type(version) is not int or version < 1:
            raise ValueError(f"format {str(tree.get('format'))[:40]!r}, version {str(version)[:40]!r}")
        check_seal(tree, required=version > 1)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FailedWork(f"{path}: damaged ({error}); export again") from None
    require(version <= VERSION, f"{path}: version {version} is newer than this megatrain; upgrade")
    return tree


def _put_back(replaced: Path, out: Path) -> None:
    if replaced.exists() and not out.exists():
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _take(partial: Path) -> int:
    """An empty folder that no other process holds, and the open descriptor that holds it."""
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UserError(f"{partial}: another process is writing this export; wait for it") from None
        except OSError:
            pass  # a file system without locks
        if partial.exists() and os.path.samestat(partial.stat(), os.fstat(lock)):
            for left in partial.iterdir():  # by one that was killed
                left.unlink()
            return lock
        os.close(lock)  # it became somebody's export in between


def _seal(folder: Path) -> None:
    """Readable to whoever serves it, with the sums of all files."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    write_text(folder / SUMS, "".join(lines))
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    sync_folder(folder)
