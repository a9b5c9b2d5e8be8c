"""Single-bit flips in each kind of record of the data side: how many are accepted with another meaning.

    python tests/benchmarks/bit_flips_data.py [FLIPS]

A flip is accepted where the record is read without an error and says something else than before. Records of
version 1, which have no hash, are compared by what decides the tokens: fingerprint, places and counts.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from data_tools import output, prepare
from data_tools.assemble import read_parts
from data_tools.config import DataConfig
from data_tools.convert.export_dataset import export_dataset
from data_tools.convert.exported import require_as_exported
from data_tools.packing import pack
from data_tools.progress import Progress
from data_tools.task import _read_stage, result_of
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import read_manifest
from megatrain.data.packing import PackedDataset, plan_folder
from megatrain.data.tokenizer import read_info
from megatrain.errors import FailedWork, UserError

QUIET = Progress(io.StringIO())
OLD = Path(__file__).parents[1] / "fixtures" / "61de48a" / "data"
LENGTH = 64
WIDTHS = (8, 8, 8, 8, 11, 10)


def dataset(home: Path) -> Path:
    words = np.random.default_rng(0).choice(["sea", "rose", "oak", "hill", "star", "rain"], (90, 30))
    rows = [{"text": f"{number}: {' '.join(line)}"} for number, line in enumerate(words)]
    (home / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig.model_validate(
        {
            "output": str(home / "out"),
            "where": {"workers": 1},
            "sources": {"a": {"files": [str(home / "a.jsonl")]}},
            "split": {"validation": 0.2, "test": 0.0},
            "tokenizer": {"vocab_size": 320},
            "shards": {"max_tokens": 1500},
        }
    )
    real = output.commit

    def kept(partial: Path, target: Path, record: Mapping[str, Any]) -> None:
        shutil.copytree(home / ".out.work", home / "work")
        real(partial, target, record)

    with patch.object(output, "commit", kept):
        folder = prepare.prepare(config, QUIET).folder
    pack(folder / "train", LENGTH)
    return folder


def kinds(home: Path) -> Iterator[tuple[str, Path, Callable[[], Any]]]:
    """Each kind of record: its name, a file of it, and how it is read."""
    folder = dataset(home)
    train = folder / "train"
    opened = TokenDataset.open(train)
    yield "manifest.json", train / "manifest.json", lambda: read_manifest(train)
    yield (
        "packing plan",
        train / plan_folder(LENGTH) / "manifest.json",
        lambda: PackedDataset.open(opened, LENGTH).plan,
    )
    yield (
        "tokenizer-info.json",
        folder / "tokenizer" / "tokenizer-info.json",
        lambda: read_info(folder / "tokenizer"),
    )
    yield "prepared.json", folder / "prepared.json", lambda: output.read_record(folder)
    yield (
        "parts.json",
        folder / "duplicates" / "parts.json",
        lambda: read_parts(folder / "duplicates" / "parts.json"),
    )
    (stage,) = (home / "work").glob("collect-*")
    yield "stage.json", stage / "stage.json", lambda: _read_stage.__wrapped__(stage)
    yield "tasks.jsonl", stage / "tasks.jsonl", lambda: _read_stage.__wrapped__(stage)
    yield "result.json", stage / "00000" / "result.json", lambda: result_of(stage, 0)
    exported = export_dataset(folder, "megatron", home / "exported", QUIET)[0]
    files = [exported.with_suffix(suffix) for suffix in (".bin", ".idx")]
    hash_ = opened.tokenizer_hash
    yield "export.json", home / "exported" / "export.json", lambda: require_as_exported(files, hash_)
    old = shutil.copytree(OLD, home / "old") / "train"
    yield "manifest.json, version 1", old / "manifest.json", lambda: decided(TokenDataset.open(old))


def decided(opened: TokenDataset) -> Any:
    """What of a dataset decides the tokens that training reads."""
    shards = [(one.name, one.values_offset, one.tokens, one.documents) for one in opened.manifest.shards]
    return opened.fingerprint, opened.manifest.tokenizer, shards


def main(count: int) -> int:
    accepted_in_all = 0
    print(
        f"{'record':<26}{'bytes':>8}{'flips':>8}{'exit 1':>8}{'exit 2':>8}{'no change':>11}{'accepted':>10}"
    )
    with tempfile.TemporaryDirectory(prefix="megatrain-") as home:
        for name, path, read in kinds(Path(home)):
            content, sound = path.read_bytes(), read()
            found = {"damage": 0, "call": 0, "same": 0, "accepted": 0}
            for place in np.random.default_rng(1).integers(0, 8 * len(content), count).tolist():
                changed = bytearray(content)
                changed[place // 8] ^= 1 << place % 8
                path.write_bytes(changed)
                try:
                    found["same" if read() == sound else "accepted"] += 1
                except FailedWork:
                    found["damage"] += 1
                except UserError:
                    found["call"] += 1
            path.write_bytes(content)
            accepted_in_all += found["accepted"]
            row = zip((len(content), count, *found.values()), WIDTHS, strict=True)
            print(f"{name:<26}" + "".join(f"{number:>{width}}" for number, width in row), flush=True)
    return 1 if accepted_in_all else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
