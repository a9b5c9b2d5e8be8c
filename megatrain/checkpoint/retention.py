"""Which checkpoints may go, and their removal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from megatrain.checkpoint.manifest import MANIFEST, read_manifest
from megatrain.checkpoint.place import Place
from megatrain.checkpoint.read import committed, is_checkpoint_name, step_of
from megatrain.errors import FailedWork, UserError


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
        scored = sorted((loss, -step) for step, loss in validation.items() if loss is not None)
        kept |= {-step for _, step in scored[: self.keep_best]}
        return sorted(set(steps) - kept)


def superfluous_folders(
    place: Place, retention: Retention, newest: str | None = None, damaged: Collection[str] = ()
) -> list[str]:
    """What retention does not keep, and what is older than the newest and was never committed.

    newest: what has just been committed; those of later steps, which were passed over, count for nothing.
    damaged: passed over too; they take nobody's place, and go when as many newer ones are whole as are kept.
    """
    kept = [name for name in committed(place) if newest is None or step_of(name) <= step_of(newest)]
    if not kept:
        return []
    whole = [name for name in kept if name not in damaged]
    losses = {step_of(name): _validation_loss(place, name, retention) for name in whole}
    gone = set(retention.superfluous(losses))
    for name in set(kept) - set(whole):
        if sum(step_of(one) > step_of(name) for one in whole) >= retention.keep:
            gone.add(step_of(name))
    return [
        name
        for name in place.folders()
        if is_checkpoint_name(name)
        and (step_of(name) in gone if name in kept else step_of(name) < step_of(kept[0]))
    ]


def remove_checkpoint(place: Place, name: str) -> None:
    """The marker comes off first: what is half removed is no checkpoint. Raises OSError."""
    place.remove(f"{name}/{MANIFEST}")
    place.remove_folder(name)


def _validation_loss(place: Place, name: str, retention: Retention) -> float | None:
    if not retention.keep_best:
        return None
    try:
        # 0 is no loss of a model: older versions wrote it for an evaluation in which no token counted.
        return read_manifest(place, name).validation_loss or None
    except (FailedWork, UserError):
        return None
