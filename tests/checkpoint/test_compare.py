"""Two checkpoints are compared tensor by tensor, whatever boxes they are stored in."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.compare import differences
from megatrain.checkpoint.manifest import Manifest, StoredBox, StoredTensor, box_key, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.storage import Entry, safetensors_chunks, write_hashed
from megatrain.state import RunState


def store(folder: Path, tensors: dict[str, torch.Tensor], cut: int) -> Checkpoint:
    """Each tensor in two boxes, cut at a row."""
    place = LocalPlace(folder)
    entries, parts, stored = [], [], {}
    for name, whole in tensors.items():
        edges = [0, min(cut, len(whole)), len(whole)]
        boxes = [
            Box((a, *(0,) * (whole.dim() - 1)), (b - a, *whole.shape[1:]))
            for a, b in itertools.pairwise(edges)
            if b > a
        ]
        for box in boxes:
            entries.append(Entry(box_key(name, box), whole.dtype, box.shape))
            parts.append(whole[box.offset[0] : box.offset[0] + box.shape[0]])
        stored[name] = StoredTensor(tuple(whole.shape), "F32", tuple(StoredBox(box, 0) for box in boxes))
    file = write_hashed(place, "c/a.safetensors", safetensors_chunks(entries, parts))
    state = RunState(seed=1, data_fingerprint="d")
    write_manifest(place, "c", Manifest(state, {}, "t", {}, {}, None, None, "now", (file,), stored))
    return Checkpoint("c", place)


def test_differences(tmp_path: Path) -> None:
    torch.manual_seed(0)
    same, moved, broken = torch.randn(4, 3), torch.randn(5), torch.randn(6)
    both_nan = torch.tensor([1.0, math.nan, math.inf])
    first = {"same": same, "moved": moved, "broken": broken, "nan": both_nan, "mine": torch.ones(1)}
    changed = moved.clone()
    changed[3] += 0.5
    spoilt = broken.clone()
    spoilt[0] = math.nan
    second = {**first, "moved": changed, "broken": spoilt, "shape": torch.ones(2), "same": same.clone()}
    del second["mine"]
    second["nan"] = both_nan.clone()
    first["shape"] = torch.ones(3)
    found = {
        d.tensor: d for d in differences(store(tmp_path / "a", first, 2), store(tmp_path / "b", second, 1))
    }
    assert {name for name, d in found.items() if d.largest == 0} == {"same", "nan"}
    assert math.isclose(found["moved"].largest, 0.5, rel_tol=1e-6)
    assert math.isclose(found["moved"].relative, 0.5 / float(moved.norm()), rel_tol=1e-5)
    assert found["broken"].what == "not a number in one of them" and math.isinf(found["broken"].largest)
    assert "only in" in found["mine"].what and "a/c" in found["mine"].what
    assert found["shape"].what == "of other shape: [3] and [2]"
