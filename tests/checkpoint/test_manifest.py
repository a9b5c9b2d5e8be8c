"""A manifest that is foreign, cut short or crafted is refused with one line, before anything is read."""

from __future__ import annotations

import copy
import json
import os
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
    read_validation_loss,
    sealed_text,
    write_manifest,
)
from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import committed
from megatrain.checkpoint.retention import remove_checkpoint
from megatrain.checkpoint.storage import FileInfo
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH
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


def rewrite(path: Path, tree: dict[str, Any]) -> None:
    """Store a changed manifest with the hash of what it has become."""
    rest = {name: value for name, value in tree.items() if name != OWN_HASH}
    path.write_bytes(sealed_text(json.dumps(rest)[:-1].encode()))


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        *outer, last = path
        for key in outer:
            tree = tree[key]
        tree[last] = value

    return change


W = ("tensors", "weights/w")
W_TREE = {"shape": [4, 2], "dtype": "F32", "boxes": [[[0, 0], [4, 2], 0]]}
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
    "model is a list of pairs": put("model", value=[["dim", 4]]),
    "tokenizer is a list": put("tokenizer", value=[]),
    "a control character in a text": put("created", value="\x1b[2J"),
    "a number that no float holds": put("loss", value=10**400),
    "one more key": put("losses", value=1),
    "samples below zero": put("state", "consumed_samples", value=-8),
    "samples as a float": put("state", "consumed_samples", value=1e25),
    "more samples than can be": put("state", "consumed_samples", value=10**25),
    "a step below zero": put("state", "step", value=-3),
    "more updates than steps": put("state", "optimizer_step", value=4),
    "an attempt below zero": put("state", "attempt", value=-1),
    "ranges out of order": put("state", "skipped", value=[[12, 16], [4, 8]]),
    "ranges that overlap": put("state", "skipped", value=[[4, 8], [6, 9]]),
    "an empty range": put("state", "skipped", value=[[4, 4]]),
    "a range below zero": put("state", "skipped", value=[[-4, 4]]),
    "a range by fractions": put("state", "skipped", value=[[0.5, 4]]),
    "a window that no float holds": put("state", "window", value=[[10**400, 1]]),
    "a moment with another name": put("tensors", "exp_avg/v", value={**W_TREE}),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted(name: str, tmp_path: Path) -> None:
    """Also where its own hash is right, and in version 2, which has none."""
    write_manifest(LocalPlace(tmp_path.parent), tmp_path.name, SOUND)
    tree = copy.deepcopy(json.loads((tmp_path / MANIFEST).read_text()))
    CRAFTED[name](tree)
    old = {key: value for key, value in tree.items() if key != OWN_HASH}
    texts = [json.dumps({**old, "version": 2} if tree["version"] else old)]
    if name != "a moment with another name":  # for a hash says more than a guess
        rewrite(tmp_path / MANIFEST, tree)
        texts.append((tmp_path / MANIFEST).read_text())
    for text in texts:
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(FailedWork) as caught:
            read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_flipped_bit_is_accepted(tmp_path: Path) -> None:
    """Wherever it is: in the version, which must not switch the comparison off, or in the hash itself. What a
    newer version says counts where its hash is right."""
    place, name = LocalPlace(tmp_path), "step-00000003"
    (tmp_path / name).mkdir()
    write_manifest(place, name, SOUND)
    path = tmp_path / name / MANIFEST
    sound = path.read_bytes()
    assert read_manifest(place, name) == SOUND and read_validation_loss(place, name) is None
    version = sound.index(b'"version":3') + 10
    chosen = [(at, at % 8) for at in range(0, len(sound), 3)]
    chosen += [(at, bit) for bit in range(8) for at in (version, *range(len(sound) - 52, len(sound)))]
    for at, bit in chosen:
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
        for read in (read_manifest, read_validation_loss):
            with pytest.raises(FailedWork, match="not a sound manifest") as caught:
                read(place, name)
            assert "\n" not in str(caught.value)


def test_the_folder_is_named_after_the_step(tmp_path: Path) -> None:
    """A copy under another step's name would shift all that follows; other names say nothing."""
    place = LocalPlace(tmp_path)
    for name in ("step-00000003", "step-3", "best"):
        write_manifest(place, name, SOUND)
        assert read_manifest(place, name).state.step == 3
    write_manifest(place, "step-00000004", SOUND)
    for read in (read_manifest, read_validation_loss):
        with pytest.raises(FailedWork, match="it is of step 3, its folder is step-00000004"):
            read(place, "step-00000004")


def test_only_ascii_digits_name_a_checkpoint(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    for name in ("step-00000003", "step-²", "step-٣", "step--3", "step-3 ", "step-", "step-3.old", "Step-3"):
        write_manifest(place, name, SOUND)
    os.mkfifo(tmp_path / "step-00000009")
    (tmp_path / "step-00000008" / MANIFEST).mkdir(parents=True)
    (tmp_path / "step-00000007").mkdir()
    os.mkfifo(tmp_path / "step-00000007" / MANIFEST)
    assert committed(place) == ["step-00000003"]
    for name in ("step-00000007", "step-00000008"):
        with pytest.raises(FailedWork, match="is not a regular file"):
            read_manifest(place, name)
        remove_checkpoint(place, name)
    assert not (tmp_path / "step-00000008").exists()


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
        rewrite(tmp_path / MANIFEST, tree)
        with pytest.raises(UserError, match="version 99 is newer than this megatrain reads"):
            read_manifest(LocalPlace(tmp_path.parent), tmp_path.name)
