"""The packing plan: what is written is found again, grows with the dataset, and is made anew when damaged."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_tools.packing import pack, plan_shard, summary
from megatrain.data.dataset import TokenDataset
from megatrain.data.packing import PackedDataset, plan_folder
from megatrain.data.shard import read_shard
from megatrain.errors import FailedWork, UserError
from megatrain.records import sealed
from tests.data.conftest import MakeDataset
from tests.data.conftest import make_dataset as make_dataset

S = 16


@pytest.fixture
def folder(make_dataset: MakeDataset) -> Path:
    """Documents of 1 to 40 tokens, EOS included."""
    return make_dataset({"a": 200, "b": 90})


def mtimes(home: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in home.glob("*.arrow")}


def test_every_document_is_in_the_plan_once(folder: Path) -> None:
    plan = pack(folder, S)
    packed = PackedDataset.open(TokenDataset.open(folder), S)
    for shard, of_shard in zip(packed.dataset.manifest.shards, plan.shards, strict=True):
        documents = [document.tokens for document in read_shard(folder / shard.name)]
        pieces = packed.locate(shard.source, np.arange(of_shard.rows), S)
        taken = sorted(zip(pieces.start.tolist(), pieces.length.tolist(), strict=True))
        first, wanted = 0, []
        for document in documents:
            for at in range(0, len(document) - 1, S):
                wanted.append((first + at, min(S + 1, len(document) - at)))
            first += len(document)
        assert taken == wanted
        assert of_shard.split == sum(len(document) > S + 1 for document in documents)
        assert of_shard.tokens == sum(length for _, length in wanted)
    text = summary(plan)
    assert [line.split()[0] for line in text.splitlines()] == ["source", "a", "b", "all"]
    assert f"{plan.padding():.3%}" in text and 0 < plan.padding() < 0.03


def test_any_arrow_software_reads_a_plan(folder: Path) -> None:
    plan = pack(folder, S)
    with pa.memory_map(str(folder / plan_folder(S) / plan.shards[0].name)) as file:
        rows = pa.ipc.open_file(file).read_all().column("pieces").to_pylist()
    packed = PackedDataset.open(TokenDataset.open(folder), S)
    for number in (0, 7, len(rows) - 1):
        pieces = packed.locate("a", np.array([number]), S)
        assert rows[number] == [list(pair) for pair in zip(pieces.start, pieces.length, strict=True)]


def test_the_plan_is_the_same_however_it_is_made(folder: Path) -> None:
    one = pack(folder, S)

    def backwards(function, tasks):
        return list(reversed([function(task) for task in reversed(list(tasks))]))

    other = folder.parent / "other"
    folder.rename(other)
    (other / plan_folder(S)).rename(other / "away")
    assert pack(other, S, over=backwards) == one
    assert pack(other, S + 1).fingerprint != one.fingerprint


def test_groups_keep_near_what_is_near(folder: Path) -> None:
    pack(folder, S, group_tokens=300)
    packed = PackedDataset.open(TokenDataset.open(folder), S)
    rows = packed.windows("a", S)
    pieces = packed.locate("a", np.arange(rows), S)
    spread = [np.ptp(pieces.start[pieces.row == row]) for row in range(rows)]
    assert max(spread) < 300 + 40 and packed.plan.padding("a") < 0.1
    # Rows of one group are in no order of length.
    lengths = np.array([len(pieces.row[pieces.row == row]) for row in range(rows)])
    assert (np.diff(lengths[:20]) < 0).any()


def test_a_dataset_that_has_grown_is_planned_for_what_is_new(folder: Path, make_dataset: MakeDataset) -> None:
    old = pack(folder, S)
    grown = make_dataset({"a": 200, "b": 90, "c": 30}, folder="grown/train")
    (folder / plan_folder(S)).rename(grown / plan_folder(S))
    before = mtimes(grown / plan_folder(S))
    planned: list[str] = []

    def over(function, tasks):
        tasks = list(tasks)
        planned.extend(task.shard.name for task in tasks)
        return map(function, tasks)

    new = pack(grown, S, over=over)
    assert planned == ["shard-00002.arrow"] and new.shards[:2] == old.shards
    after = mtimes(grown / plan_folder(S))
    assert {name: after[name] for name in before} == before
    # What was damaged since is made again.
    damaged = grown / plan_folder(S) / "shard-00001.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    planned.clear()
    assert pack(grown, S, over=over) == new and planned == ["shard-00001.arrow"]


def test_no_plan_and_wrong_plans_are_told(folder: Path, make_dataset: MakeDataset) -> None:
    dataset = TokenDataset.open(folder)
    with pytest.raises(UserError, match=rf"no plan .* \(16\); .*megatrain data pack {folder} --sequence"):
        PackedDataset.open(dataset, S)
    pack(folder, S)
    other = TokenDataset.open(make_dataset({"a": 20}, folder="other/train"))
    (folder / plan_folder(S)).rename(other.folder / plan_folder(S))
    with pytest.raises(UserError, match="the plan is of other shards; make it again: megatrain data pack"):
        PackedDataset.open(other, S)
    with pytest.raises(UserError, match="must be above 0"):
        pack(folder, 0)
    with pytest.raises(UserError, match="no such dataset"):
        pack(folder / "nowhere", S)
    pack(folder, S)
    manifest = folder / plan_folder(S) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps(sealed({**json.loads(text), "format_version": 3})))
    with pytest.raises(UserError, match="format version 3 is newer"):
        PackedDataset.open(dataset, S)
    manifest.write_text(text[:-20])
    with pytest.raises(FailedWork, match="damaged"):
        PackedDataset.open(dataset, S)


def test_a_damaged_plan_is_named(folder: Path) -> None:
    plan = pack(folder, S)
    name = plan.shards[1].name
    path = folder / plan_folder(S) / name
    content = bytearray(path.read_bytes())
    packed = PackedDataset.open(TokenDataset.open(folder), S)
    packed.verify_shards(range(2))
    for at in (plan.shards[1].bounds_offset + 7, plan.shards[1].pieces_offset + 3):
        content[at] ^= 0x7F
        path.write_bytes(content)
        content[at] ^= 0x7F
        damaged = PackedDataset.open(TokenDataset.open(folder), S)
        with pytest.raises(FailedWork, match=f"{name}: the plan is damaged; make it again"):
            damaged.locate("b", np.arange(damaged.windows("b", S)), S)
        with pytest.raises(FailedWork, match=f"{name}: the plan is damaged"):
            packed.verify_shards([1])


def test_documents_without_a_label_have_no_place(make_dataset: MakeDataset) -> None:
    folder = make_dataset([("ends", [[], [], []]), ("one", [[5, 6]])])
    plan = pack(folder, S)
    assert [shard.rows for shard in plan.shards] == [0, 1]
    packed = PackedDataset.open(TokenDataset.open(folder), S)
    assert packed.windows("ends", S) == 0 and packed.windows("one", S) == 1
    assert plan_shard.__module__ == "data_tools.packing", "other processes find it by its name"
