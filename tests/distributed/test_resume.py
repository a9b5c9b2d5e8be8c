"""A checkpoint goes on: bit for bit on the same layout, to the same losses on any other."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatrain.checkpoint.read import Checkpoint
from megatrain.config import Config
from megatrain.parallel.context import ParallelContext
from tests.distributed import training
from tests.distributed.conftest import AFTER, BEFORE, Place, Runs
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import TOLERANCE
from tests.distributed.training import act, fresh_state, open_engine, steps, stray_values

# All classes that DeepSpeed's optimizer can be of, with and without tensor parallelism.
SAME = (
    Place(1, 1, 1),
    Place(1, 2, 1, "bf16"),
    Place(1, 2, 2),
    Place(1, 2, 3),
    Place(1, 2, 3, "bf16"),
    Place(2, 1, 1),
    Place(2, 2, 1, "bf16"),
    Place(2, 2, 2),
    Place(2, 2, 3),
)
OTHER = (
    (Place(2, 2, 1), Place(1, 1, 3)),
    (Place(1, 4, 3), Place(1, 1, 1)),
    (Place(2, 1, 1), Place(2, 2, 1)),
    (Place(1, 1, 3), Place(2, 2, 2)),
    (Place(1, 2, 1), Place(2, 2, 3)),
    (Place(2, 1, 3), Place(1, 2, 1)),
    (Place(2, 2, 3), Place(1, 2, 2)),
    (Place(1, 4, 1), Place(1, 3, 3)),
    (Place(2, 2, 1, "bf16"), Place(1, 3, 1, "bf16")),
    (Place(1, 2, 1, "bf16"), Place(1, 2, 3)),
    (Place(1, 2, 3), Place(2, 2, 1, "bf16")),
)
GOINGS_ON = (*((place, place) for place in SAME), *OTHER)


def whole_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The logical tensors of a run's only checkpoint, put together by safetensors and JSON alone."""
    (checkpoint,) = (folder / "checkpoints").iterdir()
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    files = [load_file(checkpoint / file["name"]) for file in manifest["files"]]
    whole = {}
    for name, tensor in manifest["tensors"].items():
        whole[name] = torch.full(tensor["shape"], math.nan)
        for offset, shape, file in tensor["boxes"]:
            cut = tuple(slice(a, a + n) for a, n in zip(offset, shape, strict=True))
            whole[name][cut] = files[file][f"{name}@{','.join(map(str, offset))}"]
        assert not whole[name].isnan().any(), name
    return whole


class Resumed:
    """Each (from, to), played with all others that go on in the same mesh."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._played: dict[tuple[Place, Place], list[dict[str, Any]]] = {}

    def results(self, saved: Place, place: Place) -> list[dict[str, Any]]:
        if (saved, place) not in self._played:
            mesh = [pair for pair in GOINGS_ON if pair[1][:2] == place[:2]]
            for source, _ in mesh:
                self._runs.results(source)
            acts = []
            for source, target in mesh:
                folder = self._runs.folder(source)
                acts.append(act(training.resume, target.config, str(folder), AFTER, whole_tensors(folder)))
            by_rank = run_ranks(training.play, place.tensor * place.data, acts)
            for number, pair in enumerate(mesh):
                self._played[pair] = [results[number] for results in by_rank]
        return self._played[saved, place]


@pytest.fixture(scope="module")
def resumed(runs: Runs) -> Resumed:
    return Resumed(runs)


@pytest.mark.parametrize("place", SAME, ids=str)
def test_the_same_layout_goes_on_bit_for_bit(place: Place, runs: Runs, resumed: Resumed) -> None:
    """Losses, norms, every weight and moment on every rank, Adam's step count, the run's state."""
    for unbroken, again in zip(runs.results(place), resumed.results(place, place), strict=True):
        assert again["records"] == unbroken["records"][BEFORE:]
        assert again["digest"] == unbroken["digest"]
        assert again["state"] == unbroken["state"]
        assert again["stray"] == []


@pytest.mark.parametrize(("saved", "place"), OTHER, ids=lambda place: str(place))
def test_another_layout_goes_on_with_the_same_values(
    saved: Place, place: Place, runs: Runs, resumed: Resumed
) -> None:
    """Right after loading, weights and moments are equal; then losses differ by the order of summation."""
    tolerance = max(TOLERANCE[saved.dtype], TOLERANCE[place.dtype])
    unbroken = runs.records(saved)[BEFORE:]
    for result in resumed.results(saved, place):
        assert result["stray"] == []
        here, there = result["state"], runs.results(saved)[0]["state"]
        # What is in the window comes from the losses, which are compared below.
        assert (
            replace(here, window=()) == replace(there, window=())
            and len(here.window) == len(unbroken) + BEFORE
        )
        for again, once in zip(result["records"], unbroken, strict=True):
            assert again["valid"] == once["valid"]
            assert math.isclose(again["loss"], once["loss"], rel_tol=tolerance)
            assert math.isclose(again["norm"], once["norm"], rel_tol=tolerance)


def test_every_value_is_stored_once(runs: Runs) -> None:
    """On every layout the checkpoint has the same logical tensors, fp32, and no more bytes than they take."""
    shapes = None
    for place in (Place(1, 1, 1), Place(2, 2, 3), Place(2, 2, 1, "bf16"), Place(1, 4, 3)):
        runs.results(place)
        whole = whole_tensors(runs.folder(place))
        found = {name: tuple(tensor.shape) for name, tensor in whole.items()}
        assert shapes is None or found == shapes
        shapes = found
        size = sum(tensor.numel() * 4 for tensor in whole.values())
        files = list((runs.folder(place) / "checkpoints").glob("*/*.safetensors"))
        headers = sum(8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files)
        assert sum(file.stat().st_size for file in files) == size + headers
        assert {path.suffix for path in runs.folder(place).rglob("*.*")} <= {".safetensors", ".json"}


def load_weights_alone(
    config: Config, context: ParallelContext, folder: str, whole: dict[str, torch.Tensor]
) -> dict[str, Any]:
    moments = {name: torch.zeros_like(t) for name, t in whole.items() if not name.startswith("weights/")}
    stray = []
    for parted in (False, True):  # every rank reads all weights, or its part and gathers the others'
        engine = open_engine(config, context)
        engine.load_weights(Checkpoint(Path(folder, "checkpoints", f"step-{BEFORE:08d}"), parted=parted))
        stray += stray_values(engine, {**whole, **moments})
    return {"stray": stray, "records": steps(engine, config, fresh_state(config), 1)[1]}


def test_weights_alone_start_a_new_run(runs: Runs) -> None:
    """The moments are zero, and the first loss is that of the loaded weights on every stage."""
    saved = Place(2, 1, 1)
    runs.results(saved)
    whole = whole_tensors(runs.folder(saved))
    acts = [
        act(load_weights_alone, Place(1, 2, zero).config, str(runs.folder(saved)), whole)
        for zero in (1, 2, 3)
    ]
    results = run_ranks(training.play, 2, acts)
    losses = [result["records"][0]["loss"] for result in results[0]]
    assert all(result["stray"] == [] for by_act in results for result in by_act)
    assert all(math.isclose(loss, losses[0], rel_tol=TOLERANCE["fp32"]) for loss in losses)
