"""Single-bit flips in every kind of manifest and record, through the readers that production uses.

    python -m tests.benchmarks.bit_flips [--flips 1000]

Each flip is refused, or leaves what is read as it was (a letter of an escape, say). What is accepted with
another content is a failure, and so is any error that is not one line. The files are made by the present
code from tests/fixtures/61de48a. Exit code 1 where a flip was accepted with another content, or where the
older checkpoint would not be used.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_tools.assemble import read_parts
from data_tools.output import read_record
from megatrain.checkpoint.manifest import MANIFEST, read_manifest, read_validation_loss, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint, newest_whole
from megatrain.cli.main import main as megatrain
from megatrain.config import Config
from megatrain.data.manifest import read_manifest as read_data_manifest
from megatrain.data.packing import parse_plan
from megatrain.data.tokenizer import INFO_FILE, read_info
from megatrain.errors import FailedWork, UserError
from megatrain.export.folder import MARKER, origin
from megatrain.observe.scores import read_scores
from megatrain.records import write_sealed
from megatrain.resilience.control import Control, Failure
from megatrain.resilience.lease import read_holder, take_lease
from megatrain.resilience.timeline import LeftOut, read_records, write_records
from megatrain.state import RunFolder
from megatrain.train.changes import read_starts, settings_now, write_start

FIXTURE = Path(__file__).parents[1] / "fixtures" / "61de48a"
STEP, OLDER = "step-00000012", "step-00000006"
LENGTH = 32


@dataclass(frozen=True)
class Kind:
    """One kind of file, and how it is read; what is refused raises FailedWork or UserError, or is None."""

    name: str
    path: Path
    read: Callable[[], object]


def kinds(home: Path) -> Iterator[Kind]:
    """Make each kind of file with the present code."""
    place, run = LocalPlace(home / "run" / "checkpoints"), RunFolder(home / "run")
    for step in (OLDER, STEP):  # as the present version writes them
        write_manifest(place, step, replace(read_manifest(place, step), sealed=True))
    manifest = place.root / STEP / MANIFEST
    yield Kind("checkpoint manifest", manifest, lambda: read_manifest(place, STEP))
    yield Kind("the same, its validation loss", manifest, lambda: (read_validation_loss(place, STEP),))
    take_lease(run, 60).release()
    yield Kind("lease.json", run.lease, lambda: read_holder(run))
    write_records(run, (LeftOut(20, 30, 6, 3, "2 skipped"), LeftOut(51200, 51712)))
    yield Kind("skipped.json", run.left_out, lambda: read_records(run))
    write_start(run, read_starts(run), 1, settings_now(Config(), 2, {"torch": "2"}))
    yield Kind("settings.json", run.settings, lambda: _known(run))
    scores = {"model": {"all": {"bits_per_byte": 1.25}}, "unigram": {"all": {"bits_per_byte": 3.5}}}
    write_sealed(run.scores("test"), {"version": 2, "model": "m", "split": "test", "results": scores})
    yield Kind("scores-SPLIT.json", run.scores("test"), lambda: read_scores(run.scores("test")))
    yield from _of_a_launch(home / "launch")
    _quiet("export", "run", "--out", "exported", "--verify", "tokenizer")
    yield Kind(MARKER, home / "exported" / MARKER, lambda: origin(home / "exported") or None)
    yield from _of_data(home / "made")


def _of_a_launch(folder: Path) -> Iterator[Kind]:
    control = Control(folder)
    control.open()
    control.enter(3)
    control.finish(75)
    control.fail(Failure(3, "node1", "crash", "boom", 1.5))
    yield Kind("control: a rank's process", folder / "rank-00003", lambda: list(control.living()) or None)
    yield Kind("control: exit code", folder / "exit", control.exit_code)
    yield Kind("control: a failure", folder / "failure-00003", lambda: control.failures() or None)


def _of_data(made: Path) -> Iterator[Kind]:
    _quiet("prepare", "prepare.yaml", f"output={made}", "duplicates.keep_tables=true")
    _quiet("data", "pack", str(made), "--sequence-length", str(LENGTH))
    split = made / "train"
    yield Kind("data: manifest.json", split / "manifest.json", lambda: read_data_manifest(split))
    yield Kind("data: prepared.json", made / "prepared.json", lambda: read_record(made))
    tokenizer = made / "tokenizer"
    yield Kind(f"data: {INFO_FILE}", tokenizer / INFO_FILE, lambda: read_info(tokenizer))
    for path in made.glob("duplicates/parts.json"):
        yield Kind("data: parts.json", path, lambda path=path: read_parts(path))  # type: ignore[misc]
    for path in split.glob("packing-*/manifest.json"):
        read = lambda path=path: parse_plan(path.read_bytes(), path)  # noqa: E731
        yield Kind("data: packing plan", path, read)


def _known(run: RunFolder) -> object:
    starts = read_starts(run)
    return None if starts.unknown is not None else starts


def _quiet(*arguments: str) -> None:
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        assert megatrain(list(arguments)) == 0, arguments


@dataclass
class Count:
    """What became of the flips of one kind."""

    refused: int = 0
    same: int = 0
    changed: int = 0
    odd: int = 0
    """Errors that are not one line for a user."""


def flipped(kind: Kind, flips: int, draw: random.Random) -> Count:
    """Flip bits of the file, one at a time, and read it after each."""
    sound, count = kind.path.read_bytes(), Count()
    before = kind.read()
    assert before is not None, kind.name
    try:
        for number in draw.sample(range(8 * len(sound)), min(flips, 8 * len(sound))):
            at, bit = divmod(number, 8)
            kind.path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
            try:
                found = kind.read()
            except (FailedWork, UserError) as error:
                count.refused += 1
                count.odd += "\n" in str(error)
                continue
            except Exception:
                count.odd += 1
                continue
            count.refused += found is None
            count.same += found == before
            count.changed += found is not None and found != before
    finally:
        kind.path.write_bytes(sound)
    return count


def fallen_back(home: Path, flips: int, draw: random.Random) -> int:
    """How often, of so many flips in the newest manifest, the older checkpoint was the one to use."""
    place = LocalPlace(home / "run" / "checkpoints")
    path, count = place.root / STEP / MANIFEST, 0
    sound = path.read_bytes()
    for number in draw.sample(range(8 * len(sound)), flips):
        at, bit = divmod(number, 8)
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
        checkpoint, damaged = newest_whole(place)
        count += isinstance(checkpoint, Checkpoint) and checkpoint.name == OLDER and len(damaged) == 1
    path.write_bytes(sound)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000, help="of each kind (default: %(default)s)")
    arguments = parser.parse_args()
    draw, bad = random.Random(1), 0
    print("| file | flips | refused | same content | accepted with another content | errors of other kinds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        home = Path(folder) / "home"
        shutil.copytree(FIXTURE, home)
        os.chdir(home)
        for kind in kinds(home):
            count = flipped(kind, arguments.flips, draw)
            total = count.refused + count.same + count.changed + count.odd
            cells = (f"{total:,}", f"{count.refused:,}", count.same, count.changed, count.odd)
            print(f"| {kind.name} | {' | '.join(map(str, cells))} |", flush=True)
            bad += count.changed + count.odd
        most = min(arguments.flips, 1000)
        fallen = fallen_back(home, most, draw)
        print(f"\nthe older checkpoint is used after a flip in the newest manifest: {fallen:,} of {most:,}")
        return 1 if bad or fallen != most else 0


if __name__ == "__main__":
    raise SystemExit(main())
