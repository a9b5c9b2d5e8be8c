"""Which checkpoints may go, and their removal.

A save does not cost more the older the run is: an `Inventory` reads each manifest once, and later saves ask
only about what is new, and about the few that stay in place of those that go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from megatrain.checkpoint.manifest import MANIFEST, read_validation_loss
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.read import checkpoint_folders
from megatrain.errors import FailedWork, UserError
from megatrain.state import step_of


@dataclass(frozen=True)
class Retention:
    """The newest `keep`, besides those whose step is a multiple of `keep_every`, and the `keep_best` with the
    lowest validation loss."""

    keep: int
    keep_every: int | None = None
    keep_best: int = 0

    def superfluous(self, validation: Mapping[int, float | None]) -> list[int]:
        """The steps that may go, of committed ones with their validation losses; never the newest."""
        steps = sorted(validation, reverse=True)
        kept = set(steps[: max(1, self.keep)])
        if self.keep_every is not None:
            kept |= {step for step in steps if step % self.keep_every == 0}
        return sorted(set(steps) - kept - self.best(validation))

    def best(self, validation: Mapping[int, float | None]) -> set[int]:
        """The steps with the lowest validation losses; of equal ones the newer."""
        scored = sorted((loss, -step) for step, loss in validation.items() if loss is not None)
        return {-step for _, step in scored[: self.keep_best]}


class Inventory:
    """The committed checkpoints of a place and their validation losses, as far as they were asked for."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._losses: dict[str, float | None] = {}

    def forget(self, name: str) -> None:
        """Look at this folder again when it is asked for next: it was written, or removed."""
        self._losses.pop(name, None)

    def committed(self, folders: Sequence[str], *, losses: bool) -> dict[str, float | None]:
        """Return those of the folders that have a manifest, with their validation losses (None without
        `losses`, and where a manifest is damaged)."""
        gone = self._losses.keys() - set(folders)
        for name in gone:
            del self._losses[name]
        for name in folders:
            if name not in self._losses and self._exists(name):
                self._losses[name] = _validation_loss(self._place, name) if losses else None
        return {name: self._losses[name] for name in folders if name in self._losses}

    def still_there(self, names: Iterable[str]) -> bool:
        """Whether all of these still have a manifest; what has none any more is forgotten."""
        absent = [name for name in names if not self._exists(name)]
        for name in absent:
            self.forget(name)
        return not absent

    def _exists(self, name: str) -> bool:
        return self._place.exists(f"{name}/{MANIFEST}")


def superfluous_folders(
    place: Place,
    retention: Retention,
    newest: str | None = None,
    damaged: Collection[str] = (),
    inventory: Inventory | None = None,
) -> list[str]:
    """What retention does not keep, and what is older than the newest and was never committed.

    newest: what has just been committed; those of later steps, which were passed over, count for nothing.
    damaged: passed over too; they take nobody's place, and go when as many newer ones are whole as are kept.
    inventory: of this place, from the call before; what somebody else has removed takes nobody's place.
    """
    folders = checkpoint_folders(place)
    inventory = inventory or Inventory(place)
    while True:
        losses = inventory.committed(folders, losses=bool(retention.keep_best))
        gone, stay = _chosen(retention, newest, damaged, losses)
        if not gone or inventory.still_there(stay):
            break
    kept = [step_of(name) for name in losses if newest is None or step_of(name) <= step_of(newest)]
    never = [name for name in folders if name not in losses and kept and step_of(name) < max(kept)]
    return sorted([*gone, *never], key=lambda name: (step_of(name), name))


def _chosen(
    retention: Retention, newest: str | None, damaged: Collection[str], losses: Mapping[str, float | None]
) -> tuple[list[str], list[str]]:
    """Which committed checkpoints may go, and which stay because they are new or good."""
    kept = [name for name in losses if newest is None or step_of(name) <= step_of(newest)]
    whole = sorted((name for name in kept if name not in damaged), key=step_of, reverse=True)
    gone = set(retention.superfluous({step_of(name): losses[name] for name in whole}))
    for name in set(kept) - set(whole):
        if sum(step_of(one) > step_of(name) for one in whole) >= retention.keep:
            gone.add(step_of(name))
    stay = [name for name in whole if step_of(name) not in gone]
    best = retention.best({step_of(name): losses[name] for name in whole})
    count = max(1, retention.keep)
    return (
        [name for name in kept if step_of(name) in gone],
        stay[:count] + [name for name in stay[count:] if step_of(name) in best],
    )


def remove_checkpoint(place: Place, name: str) -> None:
    """The marker comes off first: what is half removed is no checkpoint. Raises OSError."""
    place.remove(f"{name}/{MANIFEST}")
    place.remove_folder(name)


def _validation_loss(place: Place, name: str) -> float | None:
    try:
        # 0 is no loss of a model: older versions wrote it for an evaluation in which no token counted.
        return read_validation_loss(place, name) or None
    except (FailedWork, UserError):
        return None
