"""Runs on many layouts, played once for all tests that ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from megatrain.config import Config
from tests.distributed import training
from tests.distributed.corpus import corpus as corpus  # a fixture
from tests.distributed.ranks import run_ranks

BEFORE, AFTER = 3, 3


class Place(NamedTuple):
    """A layout, and the dtype of the weights that compute."""

    tensor: int
    data: int
    zero: int
    dtype: str = "fp32"

    def __str__(self) -> str:
        return f"tp{self.tensor}-dp{self.data}-zero{self.zero}-{self.dtype}"

    @property
    def config(self) -> Config:
        return training.tiny(
            f"parallel.tensor={self.tensor}", f"parallel.zero={self.zero}", f"precision.dtype={self.dtype}"
        )


# Each pair of (tensor, data, ZeRO stage) values, and each ZeRO stage with each dtype, at least once.
PLACES = (
    Place(1, 1, 1),
    Place(1, 1, 3),
    Place(1, 1, 1, "bf16"),
    Place(1, 1, 2, "bf16"),
    *(Place(1, 2, zero, dtype) for zero in (1, 2, 3) for dtype in ("fp32", "bf16")),
    *(Place(2, 1, zero, dtype) for zero in (1, 2, 3) for dtype in ("fp32", "bf16")),
    Place(2, 2, 1),
    Place(2, 2, 2),
    Place(2, 2, 3),
    Place(2, 2, 1, "bf16"),
    Place(2, 2, 3, "bf16"),
    Place(1, 4, 1),
    Place(1, 4, 3),
    Place(1, 4, 2, "bf16"),
)


class Runs:
    """Every place's unbroken run of BEFORE + AFTER steps, saved after BEFORE."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._played: dict[Place, list[dict[str, Any]]] = {}

    def folder(self, place: Place) -> Path:
        return self._folder / str(place)

    def results(self, place: Place) -> list[dict[str, Any]]:
        """By rank. The first question about a mesh plays all its places in one spawn."""
        if place not in self._played:
            mesh = [p for p in PLACES if p[:2] == place[:2]]
            acts = [
                training.act(training.save_then_go_on, p.config, str(self.folder(p)), BEFORE, AFTER)
                for p in mesh
            ]
            by_rank = run_ranks(training.play, place.tensor * place.data, acts)
            for number, p in enumerate(mesh):
                self._played[p] = [results[number] for results in by_rank]
        return self._played[place]

    def records(self, place: Place) -> Sequence[training.Record]:
        """Of rank 0."""
        records: Sequence[training.Record] = self.results(place)[0]["records"]
        return records


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("layouts"))
