"""A checkpoint of version 1, which had no precision and no validation loss, is read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from megatrain.checkpoint.belonging import require_same_model, require_same_precision
from megatrain.checkpoint.commit import Identity
from megatrain.checkpoint.read import Checkpoint
from megatrain.durable import hash_file


def write_version_1(folder: Path) -> torch.Tensor:
    folder.mkdir()
    matrix = torch.randn(3, 2)
    path = folder / "attempt-00001-rank-00000.safetensors"
    save_file({"weights/m@0,0": matrix}, path)
    tree = {
        "format": "megatrain-checkpoint",
        "version": 1,
        "created": "2026-11-01T00:00:00+00:00",
        "state": {
            "version": 1,
            "seed": 3,
            "data_fingerprint": "f",
            "step": 5,
            "optimizer_step": 5,
            "consumed_samples": 40,
            "consumed_tokens": 900,
            "skipped": [],
            "skipped_in_row": 0,
            "attempt": 1,
        },
        "model": {"dim": 2},
        "tokenizer": "t",
        "layout": {"world": 1},
        "loss": 2.5,
        "files": [{"name": path.name, "bytes": path.stat().st_size, "xxh3": hash_file(path)}],
        "tensors": {"weights/m": {"shape": [3, 2], "dtype": "F32", "boxes": [[[0, 0], [3, 2], 0]]}},
    }
    (folder / "MANIFEST.json").write_text(json.dumps(tree))
    return matrix


def test_version_1_is_read(tmp_path: Path) -> None:
    matrix = write_version_1(tmp_path / "step-00000005")
    checkpoint = Checkpoint(tmp_path / "step-00000005")
    assert checkpoint.damaged() == [] and torch.equal(checkpoint.tensor("weights/m"), matrix)
    assert checkpoint.manifest.precision is None and checkpoint.manifest.validation_loss is None
    ours = Identity({"dim": 2}, "t", {"dtype": "bf16"}, {})
    require_same_model(checkpoint, ours)
    require_same_precision(checkpoint, ours, allow_change=False)  # nothing is known of it
