"""Records beside shards: a changed bit is damage, never another decision, in every version that is read."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.packing import pack
from megatrain.data.dataset import TokenDataset
from megatrain.data.manifest import MANIFEST, read_manifest, write_manifest
from megatrain.data.packing import PackedDataset, plan_folder
from megatrain.data.tokenizer import INFO_FILE, read_info
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, sealed

from .conftest import MakeDataset

S = 16
OLD = Path(__file__).parents[1] / "fixtures" / "61de48a" / "data"


def flips(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one bit changed: in every byte of the version's line, and in others at random."""
    first = content.index(b"format_version")
    places = {8 * at + bit for at in range(first, first + 20) for bit in range(8)}
    places |= set(np.random.default_rng(0).integers(0, 8 * len(content), count).tolist())
    for place in sorted(places):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def accepted(path: Path, read: Callable[[], Any], count: int = 300) -> list[Any]:
    """What is read of the changed content, where it is neither refused nor what was read before."""
    content, sound = path.read_bytes(), read()
    found = []
    for changed in flips(content, count):
        path.write_bytes(changed)
        try:
            found.append(read())
        except (FailedWork, UserError):
            continue
    path.write_bytes(content)
    return [one for one in found if one != sound]


def without_hash(path: Path, **changed: Any) -> None:
    """Make the file one of version 1."""
    tree = json.loads(path.read_text())
    del tree[OWN_HASH]
    path.write_text(json.dumps({**tree, "format_version": 1, **changed}))


def test_no_flipped_bit_is_another_decision(make_dataset: MakeDataset, tmp_path: Path) -> None:
    folder = make_dataset({"a": 9, "b": 5})
    plan = pack(folder, S)
    assert accepted(folder / MANIFEST, lambda: read_manifest(folder)) == []
    dataset = TokenDataset.open(folder)
    packing = folder / plan_folder(S) / MANIFEST
    assert accepted(packing, lambda: PackedDataset.open(dataset, S).plan) == []
    assert PackedDataset.open(dataset, S).plan == plan
    home = shutil.copytree(OLD / "tokenizer", tmp_path / "tokenizer")
    info = json.loads((home / INFO_FILE).read_text())
    (home / INFO_FILE).write_text(json.dumps(sealed({**info, "format_version": 2})))
    assert accepted(home / INFO_FILE, lambda: read_info(home)) == []


def test_the_fingerprint_does_not_depend_on_the_version_of_the_manifest(tmp_path: Path) -> None:
    folder = shutil.copytree(OLD, tmp_path / "old") / "train"
    old = read_manifest(folder)
    assert old.version == 1
    write_manifest(folder, old)
    new = read_manifest(folder)
    assert (new, new.fingerprint, new.version) == (old, old.fingerprint, 2)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("values_offset", lambda value: value + 8),
        ("values_offset", lambda value: -value),
        ("documents", lambda value: value + 1),
        ("documents", str),
        ("text_bytes", lambda value: -1),
        ("bytes", lambda value: value + 1),
        ("name", lambda value: "../" + value),
        ("tokens", float),
    ],
)
def test_a_manifest_without_a_hash_is_held_against_its_shards(
    make_dataset: MakeDataset, field: str, change: Callable[[Any], Any]
) -> None:
    folder = make_dataset({"a": 9, "b": 5})
    before = TokenDataset.open(folder).fingerprint
    without_hash(folder / MANIFEST)
    assert TokenDataset.open(folder).fingerprint == before
    tree = json.loads((folder / MANIFEST).read_text())
    tree["shards"][1][field] = change(tree["shards"][1][field])
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(FailedWork, match=r"damaged|cut short or changed"):
        TokenDataset.open(folder)


def test_a_plan_without_a_hash_is_held_against_its_files(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 9, "b": 5})
    plan, path = pack(folder, S), folder / plan_folder(S) / MANIFEST
    without_hash(path)
    assert PackedDataset.open(TokenDataset.open(folder), S).plan.fingerprint == plan.fingerprint
    for field in ("bounds_offset", "pieces_offset", "rows"):
        without = json.loads(path.read_text())
        without["shards"][0][field] -= 8 if field.endswith("offset") else 1
        (changed := path.with_name("changed")).write_text(json.dumps(without))
        changed.rename(path)
        with pytest.raises(FailedWork, match="damaged"):
            PackedDataset.open(TokenDataset.open(folder), S)
        without["shards"][0][field] += 8 if field.endswith("offset") else 1
        path.write_text(json.dumps(without))


def test_odd_records_are_damage_in_a_line(make_dataset: MakeDataset) -> None:
    folder = make_dataset({"a": 9})
    text = (folder / MANIFEST).read_text()
    for content in (
        "",
        "[]",
        "[" * 100_000,
        '{"a":1,"a":1}',
        text + "x",
        text.replace('"a"', "NaN"),
        "\ud800",
    ):
        (folder / MANIFEST).write_bytes(content.encode("utf-8", "surrogatepass"))
        with pytest.raises(FailedWork, match="damaged") as error:
            read_manifest(folder)
        assert "\n" not in str(error.value)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    with pytest.raises(FailedWork, match="cannot be read"):
        read_manifest(folder)
