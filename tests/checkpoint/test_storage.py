"""Files that any safetensors reader reads, hashed as written; boxes read from them equal slices."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path

import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import (
    Manifest,
    StoredBox,
    StoredTensor,
    box_key,
    covered_once,
    write_manifest,
)
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import Checkpoint
from megatrain.checkpoint.storage import (
    NAMES,
    Entry,
    safetensors_chunks,
    write_hashed,
    write_safetensors,
)
from megatrain.durable import replacing
from megatrain.errors import FailedWork
from megatrain.state import RunState


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a/weight@0,0": torch.randn(7, 5),
        "b@3": torch.randn(11).to(torch.bfloat16),
        "c": torch.randn(2, 3, 4).to(torch.float16),
        "strided": torch.randn(6, 4).T,
    }


def entries_of(values: dict[str, torch.Tensor]) -> list[Entry]:
    return [Entry(name, value.dtype, tuple(value.shape)) for name, value in values.items()]


def test_a_file_is_read_by_safetensors(tmp_path: Path) -> None:
    values = tensors()
    chunks = safetensors_chunks(entries_of(values), values.values(), {"k": "v"})
    info = write_hashed(LocalPlace(tmp_path), "x.safetensors", chunks)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert (info.name, info.bytes, info.xxh3) == (
        "x.safetensors",
        len(content),
        xxhash.xxh3_128_hexdigest(content),
    )
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"k": "v"}
        assert set(file.keys()) == set(values)
        for name, value in values.items():
            found = file.get_tensor(name)
            assert found.dtype == value.dtype and torch.equal(found, value)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target) as file:
            file.write(b"new, but only")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with replacing(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]

    def broken() -> object:
        yield torch.zeros(2)
        raise OSError("gone")

    entries = [Entry(name, torch.float32, (2,)) for name in "ab"]
    with pytest.raises(OSError, match="gone"):
        write_safetensors(tmp_path / "y.safetensors", entries, broken())  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["file"]


def cuts(draw: st.DrawFn, size: int) -> list[int]:
    inner = draw(st.sets(st.integers(1, size - 1), max_size=3)) if size > 1 else set()
    return [0, *sorted(inner), size]


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape and a grid of boxes that fills it."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    edges = [[(a, b - a) for a, b in itertools.pairwise(cuts(draw, n))] for n in shape]
    boxes = [Box(tuple(a for a, _ in c), tuple(n for _, n in c)) for c in itertools.product(*edges)]
    return shape, draw(st.permutations(boxes))


def store(folder: Path, whole: torch.Tensor, boxes: list[Box]) -> Checkpoint:
    """The boxes dealt out over two files."""
    files, stored = [], []
    place = LocalPlace(folder)
    for number, mine in enumerate((boxes[::2], boxes[1::2])):
        parts = [whole[box.within(Box((0,) * whole.dim(), tuple(whole.shape)))] for box in mine]
        entries = [Entry(box_key("t", b), whole.dtype, b.shape) for b in mine]
        files.append(write_hashed(place, f"c/f-{number}.safetensors", safetensors_chunks(entries, parts)))
        stored += [StoredBox(box, number) for box in mine]
    tensor = StoredTensor(tuple(whole.shape), NAMES[whole.dtype], tuple(stored))
    state = RunState(seed=1, data_fingerprint="d")
    manifest = Manifest(state, {}, "t", {}, {}, None, None, "now", tuple(files), {"t": tensor})
    write_manifest(place, "c", manifest)
    return Checkpoint("c", place)


@given(tilings(), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_box_read_equals_the_slice(
    tmp_path: Path, drawn: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = drawn
    whole = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    checkpoint = store(tmp_path, whole, boxes)
    assert torch.equal(checkpoint.tensor("t"), whole)
    assert checkpoint.damaged() == []
    offset = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    sizes = tuple(data.draw(st.integers(1, n - a)) for a, n in zip(offset, shape, strict=True))
    out = torch.full(sizes, -1.0, dtype=torch.float64)  # another dtype takes the same values
    checkpoint.read("t", Box(offset, sizes), out)
    assert torch.equal(out.float(), whole[Box(offset, sizes).within(Box((0,) * len(shape), shape))])


@given(tilings(), st.data())
def test_covered_once_sees_a_gap_and_an_overlap(
    drawn: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = drawn
    assert covered_once(shape, boxes)
    number = data.draw(st.integers(0, len(boxes) - 1))
    assert not covered_once(shape, boxes[:number] + boxes[number + 1 :])
    assert not covered_once(shape, [*boxes, boxes[number]])
    moved = dataclasses.replace(boxes[number], offset=tuple(a + 1 for a in boxes[number].offset))
    assert not covered_once(shape, [*boxes[:number], moved, *boxes[number + 1 :]])


def test_what_is_absent_or_of_another_shape_is_named(tmp_path: Path) -> None:
    checkpoint = store(tmp_path, torch.zeros(2, 3), [Box((0, 0), (2, 3))])
    with pytest.raises(FailedWork, match="has no tensor other"):
        checkpoint.read("other", Box((0,), (1,)), torch.zeros(1))
    with pytest.raises(FailedWork, match=r"t has shape \[2, 3\], wanted \[3, 2\]"):
        checkpoint.require_shapes([("t", (3, 2))])
    with pytest.raises(FailedWork, match="no values for"):
        checkpoint.read("t", Box((1, 0), (2, 3)), torch.zeros(2, 3))
