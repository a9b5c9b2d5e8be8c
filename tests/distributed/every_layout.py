"""Every layout of up to 8 ranks to every other one: run by hand, for it takes minutes.

python -m tests.distributed.every_layout [--most-ranks 8]

Saves on each of TP 1, 2, 4 x DP 1, 2, 3, 4 x ZeRO 1, 2, 3 in fp32, and ZeRO 1 in bf16 (DeepSpeed's
BF16_Optimizer), then reads each of these checkpoints on each of the layouts. For each pair: all weights and
moments are equal bit for bit to the logical tensors in the files, and the next step's loss and norm are those
of the run that went on unbroken. tests/distributed/test_resume.py has a covering set of the pairs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from megatrain.config import Config
from megatrain.parallel.context import ParallelContext
from tests.conftest import SETTINGS
from tests.distributed import training
from tests.distributed.conftest import Place
from tests.distributed.ranks import run_ranks
from tests.distributed.test_layouts import TOLERANCE
from tests.distributed.test_resume import whole_tensors

BEFORE = 2
Whole = dict[str, torch.Tensor]


def layouts(most_ranks: int) -> list[Place]:
    return [
        Place(tensor, data, zero, dtype)
        for tensor in (1, 2, 4)
        for data in (1, 2, 3, 4)
        if tensor * data <= most_ranks
        for zero, dtype in ((1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"))
    ]


def config_of(place: Place) -> Config:
    return training.tiny(
        "model.kv_heads=4",
        f"parallel.tensor={place.tensor}",
        f"parallel.zero={place.zero}",
        f"precision.dtype={place.dtype}",
    )


def go_on_from_all(
    config: Config, context: ParallelContext, folders: Sequence[str], wholes: Sequence[Whole]
) -> list[dict[str, Any]]:
    """One engine reads every checkpoint, one after the other, and makes a step from each."""
    engine = training.open_engine(config, context)
    results = []
    for folder, whole in zip(folders, wholes, strict=True):
        store = training.store_of(folder, engine)
        found = store.find()
        checkpoint = store.open(found, engine.held())
        engine.load(checkpoint)
        state = checkpoint.manifest.state
        stray = training.stray_values(engine, whole)
        _, record = training.one_step(engine, config, state)
        results.append({"stray": stray, **record})
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--most-ranks", type=int, default=8)
    places = layouts(parser.parse_args().most_ranks)
    os.environ.update(SETTINGS)
    meshes = list(dict.fromkeys(place[:2] for place in places))
    with tempfile.TemporaryDirectory(prefix="every-layout-") as base:
        folders = {place: str(Path(base, str(place))) for place in places}
        unbroken: dict[Place, dict[str, Any]] = {}
        for mesh in meshes:
            mine = [place for place in places if place[:2] == mesh]
            acts = [
                training.act(training.save_then_go_on, config_of(place), folders[place], BEFORE, 1)
                for place in mine
            ]
            for place, result in zip(mine, run_ranks(training.play, mesh[0] * mesh[1], acts)[0], strict=True):
                unbroken[place] = result["records"][BEFORE]
            print(f"saved on tp{mesh[0]} dp{mesh[1]}", flush=True)
        wholes = [whole_tensors(Path(folders[place])) for place in places]
        pairs, wrong, largest = 0, 0, {"fp32": 0.0, "bf16": 0.0}
        for mesh in meshes:
            mine = [place for place in places if place[:2] == mesh]
            arguments = (list(folders.values()), wholes)
            acts = [training.act(go_on_from_all, config_of(place), *arguments) for place in mine]
            started = time.monotonic()
            for results in run_ranks(training.play, mesh[0] * mesh[1], acts, timeout_s=1800):
                for target, by_source in zip(mine, results, strict=True):
                    for source, result in zip(places, by_source, strict=True):
                        dtype = "bf16" if "bf16" in (source.dtype, target.dtype) else "fp32"
                        apart = max(abs(result[key] / unbroken[source][key] - 1) for key in ("loss", "norm"))
                        largest[dtype] = max(largest[dtype], apart)
                        same_data = result["ids"] == [] or result["valid"] == unbroken[source]["valid"]
                        if (
                            result["stray"]
                            or not same_data
                            or not apart <= TOLERANCE[dtype]
                            or math.isnan(apart)
                        ):
                            wrong += 1
                            print(f"{source} -> {target}: {result['stray'][:3]} apart {apart:.1e}")
            pairs += len(mine) * len(places)
            seconds = time.monotonic() - started
            print(f"all {len(places)} on tp{mesh[0]} dp{mesh[1]}: {seconds:.0f} s", flush=True)
    print(f"{pairs} pairs, {wrong} wrong; largest relative difference {largest}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
