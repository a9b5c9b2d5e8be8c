"""`megatrain data samples` and `megatrain data pack`: what a run reads, and how its rows are packed."""

from __future__ import annotations

import argparse

from megatrain.errors import require


def samples(arguments: argparse.Namespace) -> int:
    from megatrain.data.listing import table
    from megatrain.train.past import samples_of_step

    print(table(samples_of_step(arguments.where, arguments.step, arguments.overrides).samples))
    return 0


def pack(arguments: argparse.Namespace) -> int:
    from data_tools.packing import pack, summary
    from data_tools.workers import pool
    from megatrain.data.manifest import MANIFEST

    folder = arguments.folder
    train = folder if (folder / MANIFEST).is_file() else folder / "train"
    require(train.is_dir(), f"{folder}: no prepared dataset there; make one with `megatrain prepare`")
    with pool(arguments.workers) as over:
        print(summary(pack(train, arguments.sequence_length, over=over)))
    return 0
