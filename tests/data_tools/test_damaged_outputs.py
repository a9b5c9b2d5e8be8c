"""An output that is damaged, half changed or another's is neither built upon nor taken for finished."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import assemble, output, prepare
from data_tools.config import DataConfig
from data_tools.packing import pack
from data_tools.progress import Progress
from data_tools.verify import faults
from megatrain.durable import hash_file
from megatrain.errors import FailedWork, UserError
from megatrain.records import OWN_HASH, own_hash

QUIET = Progress(io.StringIO())


def write(path: Path, word: str, count: int) -> str:
    words = np.random.default_rng(len(word)).choice(
        ["sea", "rose", "oak", "hill", "star", "rain"], (count, 30)
    )
    rows = [{"text": f"{word} {number}: {' '.join(line)}"} for number, line in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("sources")
    (home / "bad.txt").write_text("zzzz\n")
    return {
        "output": str(home / "out"),
        "where": {"workers": 1},
        "sources": {name: {"files": [write(home / f"{name}.jsonl", name, 90)]} for name in ("alpha", "beta")},
        "steps": [{"clean": {}}, {"bad_words": {"file": str(home / "bad.txt")}}],
        "split": {"validation": 0.2, "test": 0.0},
        "tokenizer": {"vocab_size": 320},
        "shards": {"max_tokens": 3000},
    }


@pytest.fixture(scope="module")
def sound(tree: dict[str, Any]) -> Path:
    folder = prepare.prepare(DataConfig.model_validate(tree), QUIET).folder
    pack(folder / "train", 64)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "data")


def more(tree: dict[str, Any], folder: Path) -> DataConfig:
    """The config with a source more, to be added."""
    third = {"files": [write(folder.parent / "gamma.jsonl", "gamma", 40)]}
    sources = {**tree["sources"], "gamma": third}
    return DataConfig.model_validate({**tree, "output": str(folder), "append": True, "sources": sources})


def same(tree: dict[str, Any], folder: Path) -> DataConfig:
    return DataConfig.model_validate({**tree, "output": str(folder)})


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def found(folder: Path, *, quick: bool = False) -> list[str]:
    return list(faults(folder, quick=quick, progress=QUIET))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no manifest": ("train/manifest.json", Path.unlink),
    "no shard": ("train/shard-00000.arrow", Path.unlink),
    "a cut shard": ("train/shard-00001.arrow", lambda path: os.truncate(path, 500)),
    "a table that was changed": ("duplicates/00000/exact.arrow", flip),
    "no table": ("duplicates/00001/ids.arrow", Path.unlink),
    "a list of tables that is none": ("duplicates/parts.json", lambda path: path.write_text("[")),
    "a list of other things": ("duplicates/parts.json", lambda path: path.write_text("[{}]")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_nothing_is_added_to_what_is_damaged(damage: str, tree: dict[str, Any], folder: Path) -> None:
    """Shards of the new source would take the names of old ones, or be compared with what is none."""
    name, spoil = DAMAGE[damage]
    spoil(folder / name)
    before = files(folder)
    with pytest.raises(FailedWork, match=rf"{folder}/{name}: ") as error:
        prepare.prepare(more(tree, folder), QUIET)
    assert "\n" not in str(error.value)
    assert files(folder) == before


def test_a_file_of_the_steps_that_has_changed_is_noticed_when_sources_are_added(
    tree: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    listed = Path(tree["steps"][1]["bad_words"]["file"])
    sound_words = listed.read_text()
    listed.write_text("rose\n")
    try:
        with pytest.raises(UserError, match=rf"was prepared with another {listed}; sources can be added"):
            prepare.prepare(more(tree, folder), QUIET)
    finally:
        listed.write_text(sound_words)


def test_an_append_that_was_cut_off_is_told_and_mended_by_itself(
    tree: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copytree(folder, tmp_path / "whole")
    shutil.rmtree(whole / "train" / "packing-64")
    prepare.prepare(more(tree, whole), QUIET)

    real, calls = assemble.write_manifest, []

    def cut_off(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    shutil.rmtree(folder / "train" / "packing-64")
    monkeypatch.setattr(assemble, "write_manifest", cut_off)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(more(tree, folder), QUIET)
    monkeypatch.setattr(assemble, "write_manifest", real)
    (told,) = found(folder, quick=True)
    assert "sources were being added when that was cut off; run the same command again" in told
    with pytest.raises(UserError, match="go on with append=true"):
        prepare.prepare(same(tree, folder), QUIET)
    prepare.prepare(more(tree, folder), QUIET)
    assert found(folder) == [] and {*files(folder)} == {*files(whole)}
    for name, content in files(whole).items():
        assert files(folder)[name] == content or name == "prepared.json"


def test_prepared_already_is_said_of_a_whole_output_alone(tree: dict[str, Any], folder: Path) -> None:
    assert not prepare.prepare(same(tree, folder), QUIET).made_now
    (folder / "train" / "shard-00001.arrow").unlink()
    with pytest.raises(FailedWork, match=r"shard-00001\.arrow: shard missing; .*; overwrite=true makes"):
        prepare.prepare(same(tree, folder), QUIET)
    again = same(tree, folder).model_copy(update={"overwrite": True})
    assert prepare.prepare(again, QUIET).made_now and found(folder) == []


@pytest.mark.parametrize("content", ["[]", "{}", "5", '{"config": 3}', "{"])
def test_a_record_that_is_none(tree: dict[str, Any], folder: Path, content: str) -> None:
    (folder / "prepared.json").write_text(content)
    for config in (same(tree, folder), more(tree, folder)):
        with pytest.raises(FailedWork, match=r"prepared\.json: damaged") as error:
            prepare.prepare(config, QUIET)
        assert "\n" not in str(error.value)
    assert [one for one in found(folder) if one.startswith(f"{folder}/prepared.json: damaged")] == found(
        folder
    )


def count_another(path: Path) -> None:
    text = path.read_text()
    assert '"read": 90' in text
    path.write_text(text.replace('"read": 90', '"read": 91'))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("train/manifest.json", count_another),
        ("prepared.json", count_another),
        ("train/packing-64/shard-00000.arrow", flip),
        ("train/packing-64/shard-00001.arrow", Path.unlink),
        ("train/packing-64/manifest.json", lambda path: path.write_text("{")),
        ("tokenizer/tokenizer.model", Path.unlink),
    ],
)
def test_each_fault_is_told_once(name: str, spoil: Callable[[Path], object], folder: Path) -> None:
    assert found(folder) == found(folder / "train") == []
    spoil(folder / name)
    (told,) = found(folder)
    assert told.startswith(f"{folder}/{name}: ")


def test_a_plan_that_was_cut_off_is_no_fault_and_a_stale_one_is(tree: dict[str, Any], folder: Path) -> None:
    (folder / "train" / "packing-77").mkdir()
    shutil.copy(folder / "train/packing-64/shard-00000.arrow", folder / "train/packing-77/shard-00000.arrow")
    assert found(folder) == found(folder / "train") == []
    prepare.prepare(more(tree, folder), QUIET)
    (told,) = found(folder)
    assert told == f"{folder}/train/packing-64: the plan is of other shards; run `megatrain data pack` again"
    pack(folder / "train", 64)
    assert found(folder) == []


def test_the_hash_of_a_record_is_that_of_what_is_read_again() -> None:
    """Numbers as keys, of which there may be two digits, come back as text, which sorts otherwise."""
    record = {"sizes": {2: 5, 10: 1}, "share": 0.1, "name": "春"}
    assert own_hash(record) == own_hash({**json.loads(json.dumps(record)), OWN_HASH: "x"})


def test_where_an_output_goes(tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through links and `..` to the same folder, old outputs in their places until the new ones are whole."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "data")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "link", tmp_path / "disk" / "data" / ".." / "data", "~/disk/data"):
        config = DataConfig.model_validate({**tree, "output": str(name), "overwrite": True})
        assert prepare.prepare(config, QUIET).folder == tmp_path / "disk" / "data"
        assert (tmp_path / "link").is_symlink() and found(tmp_path / "link") == []
        assert {path.name for path in (tmp_path / "disk").iterdir()} == {"data"}
    (tmp_path / ".x.work").write_text("")
    with pytest.raises(UserError, match=r"output \(.*/x\): .*\.x\.work is a file, where work would lie"):
        output.placed(tmp_path / "x")
    monkeypatch.chdir(tmp_path / "disk")
    with pytest.raises(UserError, match="names no folder"):
        output.placed("../disk")


def test_results_of_a_run_that_was_cut_off_are_compared_before_they_are_used(
    tree: dict[str, Any], sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = same(tree, tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr("data_tools.pipeline.assemble", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(config, QUIET)
    work = tmp_path / ".data.work"
    spoilt = [
        *work.glob("collect-*/00000/documents.arrow"),
        *work.glob("collect-*/00001/result.json"),
        *work.glob("tokenizer-*/files/tokenizer.model"),
        *work.glob("shards-*/00000/*.arrow"),
    ]
    assert len(spoilt) == 4
    for path in spoilt:
        flip(path)
    told = io.StringIO()
    prepare.prepare(config, Progress(told))
    assert told.getvalue().count("it is made again") == 1
    assert told.getvalue().count("the task is done again") == 3
    plans = set(files(sound)) - set(files(tmp_path / "data"))
    assert plans and all("packing-64" in name for name in plans)
    for name, content in files(tmp_path / "data").items():
        assert name == "prepared.json" or content == files(sound)[name], name


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
