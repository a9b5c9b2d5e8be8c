"""A checkpoint of version 1, which had no precision and no validation loss, is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatrain.checkpoint.belonging import require_same_model, require_same_precision
from megatrain.checkpoint.commit import Identity
from megatrain.checkpoint.read import Checkpoint
from megatrain.durable import hash_file
from megatrain.errors import FailedWork


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


def test_without_a_hash_the_tensors_are_compared_with_the_files(tmp_path: Path) -> None:
    """Version 2: a changed name, shape or box is damage, also where weights and moments change alike."""
    fixture = Path(__file__).parents[1] / "fixtures" / "61de48a" / "run" / "checkpoints" / "step-00000012"
    folder = tmp_path / fixture.name
    shutil.copytree(fixture, folder)
    path = folder / "MANIFEST.json"
    sound = path.read_text()
    assert Checkpoint(folder).damaged() == []
    path.write_text(sound.replace("/norm.weight", "/norn.weight"))
    assert path.read_text() != sound
    (what,) = Checkpoint(folder).damaged(hashes=False)
    assert "holds other tensors than the manifest says" in what
    for old, new in (("weights/norm.", "weights/norn."), ('"version":2', '"version":3')):
        path.write_text(sound.replace(old, new, 1))
        assert path.read_text() != sound
        with pytest.raises(FailedWork, match="not a sound manifest"):
            Checkpoint(folder)
    folder.rename(tmp_path / "step-00000013")
    (tmp_path / "step-00000013" / "MANIFEST.json").write_text(sound)
    with pytest.raises(FailedWork, match="it is of step 12"):
        Checkpoint(tmp_path / "step-00000013")
