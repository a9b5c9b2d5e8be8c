"""How far two checkpoints are apart, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from megatrain.checkpoint.read import Checkpoint


@dataclass(frozen=True)
class Difference:
    """Of one logical tensor."""

    tensor: str
    largest: float
    """Absolute; inf where the tensor is absent in one, of another shape, or NaN in one alone."""
    relative: float
    """Norm of the difference / norm of the first."""
    what: str = ""


def differences(first: Checkpoint, second: Checkpoint) -> Iterator[Difference]:
    """One for every tensor of either; two tensors are in memory at a time. Raises FailedWork."""
    ours, theirs = first.manifest.tensors, second.manifest.tensors
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            inside = first if name in ours else second
            yield Difference(name, float("inf"), float("inf"), f"only in {inside}")
        elif ours[name].shape != theirs[name].shape:
            shapes = f"{list(ours[name].shape)} and {list(theirs[name].shape)}"
            yield Difference(name, float("inf"), float("inf"), f"of other shape: {shapes}")
        else:
            yield _difference(name, first.tensor(name).float(), second.tensor(name).float())


def _difference(name: str, a: torch.Tensor, b: torch.Tensor) -> Difference:
    if torch.equal(a, b) or (
        torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
    ):
        return Difference(name, 0.0, 0.0)
    apart = (a - b).abs()
    if apart.isnan().any():
        return Difference(name, float("inf"), float("inf"), "not a number in one of them")
    norm = float(a.double().norm())
    return Difference(name, float(apart.max()), float(apart.double().norm()) / norm if norm else float("inf"))
