"""`megatrain checkpoint ...`: look at a run's checkpoints, compare two, clear away."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from megatrain.errors import FailedWork, UserError, require

if TYPE_CHECKING:
    from megatrain.checkpoint.place import Place
    from megatrain.checkpoint.read import Checkpoint


def ls(arguments: argparse.Namespace) -> int:
    for name, checkpoint in _checkpoints(arguments.folder):
        if isinstance(checkpoint, str):
            print(f"{name}  {checkpoint}")
            continue
        manifest = checkpoint.manifest
        losses = {"loss": manifest.loss, "validation": manifest.validation_loss}
        told = "  ".join(f"{key} {'-' if v is None else f'{v:.4f}'}" for key, v in losses.items())
        layout = " ".join(f"{key} {value}" for key, value in manifest.layout.items())
        whole = "; ".join(checkpoint.damaged(hashes=False)) or "whole"
        print(
            f"{name}  {manifest.created}  {manifest.bytes / 2**20:9.1f} MiB  {told}  "
            f"saved on {layout}  {whole}"
        )
    return 0


def verify(arguments: argparse.Namespace) -> int:
    bad = 0
    for name, checkpoint in _checkpoints(arguments.folder):
        damaged = checkpoint if isinstance(checkpoint, str) else "; ".join(checkpoint.damaged())
        bad += bool(damaged)
        print(f"{name}  {damaged or 'whole'}", flush=True)
    if bad:
        raise FailedWork(f"{arguments.folder}: {bad} damaged; a run falls back to the newest whole one")
    return 0


def diff(arguments: argparse.Namespace) -> int:
    from megatrain.checkpoint.compare import differences

    first, second = _one(arguments.first), _one(arguments.second)
    print(f"A {first}\nB {second}")
    for key in ("state", "model", "tokenizer", "precision", "layout", "loss", "validation_loss"):
        ours, theirs = (getattr(one.manifest, key) for one in (first, second))
        if key == "state":  # its window is for the guard, and would fill the screen
            ours, theirs = replace(ours, window=()), replace(theirs, window=())
        if ours != theirs:
            print(f"{key}: {ours} in A, {theirs} in B")
    found = sorted(differences(first, second), key=lambda one: -one.largest)
    apart = [one for one in found if one.largest > 0]
    print(f"{len(found)} tensors, {len(found) - len(apart)} identical")
    if apart:
        width = max(len(one.tensor) for one in apart[: arguments.most])
        print(f"{'tensor':<{width}}  largest difference  relative")
    for one in apart[: arguments.most]:
        print(f"{one.tensor:<{width}}  {one.largest:18.3e}  {one.relative:8.1e}  {one.what}".rstrip())
    return 0


def prune(arguments: argparse.Namespace) -> int:
    from megatrain.checkpoint.retention import Retention, remove_checkpoint, superfluous_folders

    require(arguments.keep >= 1, f"--keep ({arguments.keep}) must be at least 1: the newest is never removed")
    every = arguments.keep_every
    require(every is None or every >= 1, f"--keep-every ({every}) must be at least 1")
    require(arguments.keep_best >= 0, f"--keep-best ({arguments.keep_best}) must not be negative")
    place = _place(arguments.folder)
    retention = Retention(arguments.keep, every, arguments.keep_best)
    superfluous = superfluous_folders(place, retention, damaged=_damaged(place, arguments.keep))
    if not superfluous:
        print("nothing to remove")
    for name in superfluous:
        if not arguments.dry_run:
            remove_checkpoint(place, name)
        print(f"{name}  {'would be removed' if arguments.dry_run else 'removed'}", flush=True)
    return 0


def _damaged(place: Place, keep: int) -> set[str]:
    """Names of checkpoints that must not be counted as kept: hashes are compared from the newest on until so
    many are whole, of older ones sizes alone."""
    from megatrain.checkpoint.read import Checkpoint, committed

    damaged, whole = set[str](), 0
    for name in committed(place):
        try:
            faulty = bool(Checkpoint(name, place).damaged(hashes=whole < keep))
        except (FailedWork, UserError):
            faulty = True
        whole += not faulty
        if faulty:
            damaged.add(name)
    return damaged


def _place(folder: Path) -> Place:
    """Where a run's checkpoints lie; there is one at least."""
    from megatrain.checkpoint.read import newest_first
    from megatrain.export.source import checkpoints_of
    from megatrain.state import RunFolder

    place = checkpoints_of(RunFolder(folder))
    require(any(newest_first(place)), f"{folder}: no committed checkpoint there; name the folder of a run")
    return place


def _checkpoints(folder: Path) -> Iterator[tuple[str, Checkpoint | str]]:
    """Of a run, newest first, or the one named; in place of one with an unsound manifest, what is wrong."""
    from megatrain.checkpoint.manifest import MANIFEST
    from megatrain.checkpoint.place import LocalPlace
    from megatrain.checkpoint.read import Checkpoint, committed

    alone = (folder / MANIFEST).is_file()
    place = LocalPlace(folder.resolve().parent) if alone else _place(folder)
    for name in [folder.resolve().name] if alone else committed(place):
        try:
            yield name, Checkpoint(name, place)
        except (FailedWork, UserError) as error:
            yield name, str(error)


def _one(where: str) -> Checkpoint:
    """A checkpoint's folder or URL, or the newest of a run."""
    from megatrain.checkpoint.belonging import none_whole
    from megatrain.checkpoint.manifest import MANIFEST
    from megatrain.checkpoint.read import Checkpoint, newest_first

    if "://" in where or Path(where, MANIFEST).is_file():
        return Checkpoint(where)
    require(Path(where).is_dir(), f"{where}: no such folder; name a checkpoint's folder or a run's")
    place = _place(Path(where))
    damaged = []
    for name in newest_first(place):
        try:
            return Checkpoint(name, place)
        except FailedWork as error:
            damaged.append(f"{name}: {error}")
            print(f"megatrain: skipped {damaged[-1]}", file=sys.stderr)
    raise FailedWork(none_whole(place, damaged))
