"""A manifest that is foreign, cut short or crafted is refused with one line, before anything is read."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatrain.checkpoint.boxes import Box
from megatrain.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    StoredBox,
    StoredTensor,
    read_manifest,
    write_manifest,
)
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.storage import FileInfo
from megatrain.errors import FailedWork, UserError
from megatrain.state import RunState

STATE = RunState(
    seed=7, data_fingerprint="f", step=3, optimizer_step=2, consumed_samples=30, skipped=((4, 8), (12, 16))
)
SOUND = Manifest(
    state=STATE,
    model={"dim": 4},
    tokenizer="0" * 32,
    precision={"dtype": "bf16"},
    layout={"tensor": 2},
    loss=1.5,
    validation_loss=None,
    created="2026-01-01T00:00:00+00:00",
    files=(FileInfo("a.safetensors", 100, "00"), FileInfo("b.safetensors", 200, "11")),
    tensors={
        "weights/w": StoredTensor(
            (4, 2), "F32", (StoredBox(Box((0, 0), (2, 2)), 0), StoredBox(Box((2, 0), (2, 2)), 1))
        )
    },
)


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    write_manifest(LocalPlace(tmp_path.parent), tmp_path.name, SOUND)
    assert read_manifest(LocalPlace(tmp_path.parent), tmp_path.name) == SOUND
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        *outer, last = path
        for key in outer:
            tree = tree[key]
        tree[last] = value

    return change


W = ("tensors", "weights/w")
CRAFTED = {
    "another format": put("format", value="zip"),
    "no version": put("version", value=None),
    "climbs out": put("files", 0, "name", value="../../etc/passwd.safetensors"),
    "absolute": put("files", 0, "name", value="/tmp/a.safetensors"),
    "hidden": put("files", 0, "name", value=".a.safetensors"),
    "a newline": put("files", 0, "name", value="a.safetensors\n"),
    "a pickle": put("files", 0, "name", value="a.pt"),
    "negative size of a file": put("files", 0, "bytes", value=-1),
    "files is no list": put("files", value=3),
    "unknown dtype": put(*W, "dtype", value="F8_E4M3"),
    "dtype is a list": put(*W, "dtype", value=["F32"]),
    "no shape": put(*W, "shape", value=[]),
    "zero": put(*W, "shape", value=[0, 2]),
    "negative": put(*W, "shape", value=[-4, -2]),
    "absurdly large": put(*W, "shape", value=[1 << 50, 2]),
    "larger than its boxes": put(*W, "shape", value=[4, 3]),
    "no boxes": put(*W, "boxes", value=[]),
    "a box is missing": put(*W, "boxes", value=[[[0, 0], [2, 2], 0]]),
    "boxes overlap": put(*W, "boxes", value=[[[0, 0], [2, 2], 0], [[1, 0], [2, 2], 1]]),
    "the same box twice": put(*W, "boxes", value=[[[0, 0], [2, 2], 0], [[0, 0], [2, 2], 1]]),
    "a box sticks out": put(*W, "boxes", value=[[[0, 0], [2, 2], 0], [[3, 0], [2, 2], 1]]),
    "a box before the start": put(*W, "boxes", value=[[[-2, 0], [2, 2], 0], [[2, 0], [2, 2], 1]]),
    "box of other rank": put(*W, "boxes", value=[[[0], [8], 0]]),
    "a file that is not listed": put(*W, "boxes", value=[[[0, 0], [4, 2], 2]]),
    "a file by a negative number": put(*W, "boxes", value=[[[0, 0], [4, 2], -1]]),
    "a file by a text": put(*W, "boxes", value=[[[0, 0], [4, 2], "0"]]),
    "a file by a fraction": put(*W, "boxes", value=[[[0, 0], [4, 2], 0.5]]),
    "a box by fractions": put(*W, "boxes", value=[[[0.5, 0], [4, 2], 0]]),
    "tensors is a list": put("tensors", value=[]),
    "no state": put("state", value={}),
    "state is text": put("state", value="x"),
    "state with text for a number": put("state", "step", value="3"),
    "state with more": put("state", "more", value=1),
    "state with half a range": put("state", "skipped", value=[[1]]),
    "loss is text": put("loss", value="low"),
    "model is a number": put("model", value=3),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted(name: str, tmp_path: Path) -> None:
    write_manifest(LocalPlace(tmp_path.parent), tmp_path.name, SOUND)
    tree = copy.deepcopy(json.loads((tmp_path / MANIFEST).read_text()))
    CRAFTED[name](tree)
    (tmp_path / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(FailedWork) as caught:
        read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_torn_and_foreign_texts(tmp_path: Path) -> None:
    write_manifest(LocalPlace(tmp_path.parent), tmp_path.name, SOUND)
    whole = (tmp_path / MANIFEST).read_bytes()
    texts = [whole[:n] for n in range(0, len(whole), 29)]
    texts += [b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000]
    texts += [whole.replace(b"1.5", b"NaN"), whole.replace(b"1.5", b"Infinity")]
    for text in texts:
        (tmp_path / MANIFEST).write_bytes(text)
        with pytest.raises(FailedWork, match="not a sound manifest") as caught:
            read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)
        assert "\n" not in str(caught.value)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(FailedWork, match="No such file"):
        read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)


def test_newer_versions_ask_for_an_upgrade(tmp_path: Path) -> None:
    for change in (put("version", value=99), put("state", "version", value=99)):
        write_manifest(LocalPlace(tmp_path.parent), tmp_path.name, SOUND)
        tree = json.loads((tmp_path / MANIFEST).read_text())
        change(tree)
        (tmp_path / MANIFEST).write_text(json.dumps(tree))
        with pytest.raises(UserError, match="version 99 is newer than this megatrain reads"):
            read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)
