"""What a start, a save and a rollback cost when a run keeps many checkpoints, now and at 61de48a.

    python -m tests.benchmarks.old_checkpoints [--counts 2 200 2000]

A place that counts its requests stands for object storage, where each takes some 50 ms; seconds are those of
a local disk. "before" repeats what the code did at 61de48a with the same manifests.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredBox,
    StoredTensor,
    manifest_text,
    read_manifest,
    tensors_json,
)
from megatrain.checkpoint.place import LocalPlace, OpenFile
from megatrain.checkpoint.read import checkpoint_folders, committed, newest_first
from megatrain.checkpoint.retention import Inventory, Retention, superfluous_folders
from megatrain.checkpoint.storage import FileInfo
from megatrain.resilience.timeline import LeftOut, belongs, may_be_abandoned
from megatrain.state import RunState, checkpoint_name, step_of

EVERY = 500
TENSORS = 300
RETENTION = Retention(3, keep_every=EVERY, keep_best=2)


class Counted(LocalPlace):
    """A place that counts what object storage would be asked."""

    requests = 0

    def folders(self) -> list[str]:
        self.requests += 1
        return super().folders()

    def exists(self, name: str) -> bool:
        self.requests += 1
        return super().exists(name)

    def open(self, name: str) -> OpenFile:
        self.requests += 1
        return super().open(name)


def fill(place: LocalPlace, steps: Sequence[int]) -> int:
    """Commit checkpoints without tensors' values; return the bytes of one manifest."""
    boxes = (StoredBox(Box((0, 0), (8, 8)), 0),)
    tensors = tensors_json(
        {f"weights/layers.{n}.weight": StoredTensor((8, 8), "F32", boxes) for n in range(TENSORS)}
    )
    text = b""
    for step in steps:
        state = RunState(seed=1, data_fingerprint="f", step=step, consumed_samples=8 * step)
        manifest = Manifest(
            state, {"dim": 8}, "t", {}, {}, 2.0, 1 + 1 / step, "now", (FileInfo("a.safetensors", 1, "0"),), {}
        )
        text = manifest_text(manifest, tensors)
        (place.root / checkpoint_name(step)).mkdir(parents=True)
        (place.root / checkpoint_name(step) / MANIFEST).write_bytes(text)
    return len(text)


def start_before(place: Counted) -> None:
    read_manifest(place, committed(place)[0])


def start_now(place: Counted) -> None:
    read_manifest(place, next(newest_first(place)))


def save_before(place: Counted) -> None:
    losses = {step_of(name): read_manifest(place, name).validation_loss for name in committed(place)}
    assert place.folders() and not RETENTION.superfluous(losses)


def rollback_before(place: Counted) -> None:
    record = _record(place)
    for name in committed(place):
        belongs(read_manifest(place, name).state, [record])


def rollback_now(place: Counted) -> None:
    record = _record(place)
    for name in checkpoint_folders(place):
        if may_be_abandoned(step_of(name), [record]):
            belongs(read_manifest(place, name).state, [record])


def _record(place: Counted) -> LeftOut:
    newest = step_of(max(super(Counted, place).folders()))
    return LeftOut(10, 20, newest + 7, newest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 200, 2000])
    arguments = parser.parse_args()
    print("| checkpoints kept | what | before: requests | before: s | now: requests | now: s |")
    print("|---|---|---|---|---|---|")
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            place = Counted(Path(folder, "checkpoints"))
            size = fill(place, [EVERY * n for n in range(1, count + 1)])
            known = Inventory(place)
            newest = checkpoint_name(EVERY * count)

            def save_now(place: Counted, known: Inventory = known, newest: str = newest) -> None:
                known.forget(newest)
                assert not superfluous_folders(place, RETENTION, newest, inventory=known)

            rows: list[tuple[str, Callable[[Counted], None], Callable[[Counted], None]]] = [
                ("start: find the newest", start_before, start_now),
                ("first save: what may go", save_before, save_now),
                ("each later save", save_before, save_now),
                ("rollback: what is abandoned", rollback_before, rollback_now),
            ]
            for what, before, now in rows:
                cells = [cell for work in (before, now) for cell in _cost(place, work)]
                print(f"| {count:,} of {size / 1024:.0f} KiB | {what} | {' | '.join(cells)} |", flush=True)


def _cost(place: Counted, work: Callable[[Counted], None]) -> tuple[str, str]:
    place.requests, begun = 0, time.perf_counter()
    work(place)
    return f"{place.requests:,}", f"{time.perf_counter() - begun:.3f}"


if __name__ == "__main__":
    main()
