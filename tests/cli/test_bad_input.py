"""Bad input: exit code 2 (1 for damage), one line that says what, where and how to mend it; nothing is
written, no rank is started."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatrain.records import write_sealed
from tests.cli.conftest import Call, Scene, edit_manifest, flip_byte
from tests.distributed.corpus import curve, events, make_corpus
from tests.distributed.ranks import run_ranks

Change = Callable[[Scene], "list[str] | None"]


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refused(call: Call, scene: Scene, *words: object, code: int = 2) -> str:
    """The one line on stderr of a command that wrote nothing."""
    before = scene.files()
    ended = call(*words)
    assert ended.code == code, ended
    assert ended.out == "" and ended.err.count("\n") == 1, ended
    assert ended.err.startswith("megatrain: ") and "Traceback" not in ended.err
    assert scene.files() == before
    return ended.err


# --- a run ---


def cut_short(scene: Scene) -> None:
    path = scene.data / "train" / "shard-00000.arrow"
    path.write_bytes(path.read_bytes()[:-8])


def missing_shard(scene: Scene) -> None:
    (scene.data / "train" / "shard-00001.arrow").unlink()


def other_tokenizer_beside_the_shards(scene: Scene) -> None:
    shutil.rmtree(scene.data / "tokenizer")
    shutil.copytree(other_corpus(scene) / "tokenizer", scene.data / "tokenizer")


def other_tokenizer_named(scene: Scene) -> list[str]:
    return [f"tokenizer.folder={other_corpus(scene)}"]


def other_corpus(scene: Scene) -> Path:
    """Of another seed, so with another tokenizer; made once a session, beside the shared one."""
    folder = scene.folder.parents[1] / "other-corpus"
    return folder / "data" if folder.exists() else make_corpus(folder, seed=1)


def newer_dataset(scene: Scene) -> None:
    path = scene.data / "train" / "manifest.json"
    write_sealed(path, {**json.loads(path.read_text()), "format_version": 99})


def newer_checkpoint(scene: Scene) -> None:
    edit_manifest(scene.checkpoint(), version=99)


def newer_state(scene: Scene) -> None:
    folder = scene.checkpoint()
    state = json.loads((folder / "MANIFEST.json").read_text())["state"]
    edit_manifest(folder, state={**state, "version": 99})


def another_model(scene: Scene) -> None:
    scene.checkpoint(dim=24)


def other_data(scene: Scene) -> None:
    scene.checkpoint()


def appended(text: str) -> Change:
    def change(scene: Scene) -> None:
        scene.config.write_text(scene.config.read_text() + text)

    return change


def given(*overrides: str) -> Change:
    return lambda scene: list(overrides)


RUNS: dict[str, tuple[Change, str]] = {
    "no corpus": (
        given("data.sources=[{path: nowhere}]"),
        r"nowhere/train: no such dataset folder; make it with `megatrain prepare`",
    ),
    "no sources": (given("data.sources=[]"), r"data\.sources is empty: name a folder"),
    "folder above the data": (given("data.sources=[{path: .}]"), r"train: no such dataset folder"),
    "corpus smaller than a sample": (
        given("data.sequence_length=100000"),
        r"source 'prose' is smaller than one sample .* lower data\.sequence_length",
    ),
    "unknown source": (
        given("data.sources=[{path: data, name: poems}]"),
        r"data has no source 'poems'; it has prose, verse",
    ),
    "other tokenizer beside the shards": (
        other_tokenizer_beside_the_shards,
        r"data/tokenizer: tokenizer \w+ does not belong to the shards of data/train",
    ),
    "other tokenizer named": (
        other_tokenizer_named,
        r"tokenizer\.folder \(.*\) does not belong to the shards: .*leave it out",
    ),
    "vocabulary too small": (
        given("model.vocab_size=300"),
        r"model\.vocab_size \(300\) is below the tokenizer's 320; set it",
    ),
    "shard cut short": (
        cut_short,
        r"data/train/shard-00000\.arrow: shard cut short .*; prepare the dataset again",
    ),
    "shard missing": (missing_shard, r"data/train/shard-00001\.arrow: shard missing; "),
    "run of another model": (
        another_model,
        r"run/checkpoints/step-00000010 is of another model: model\.dim is 24 there and 16 in the config",
    ),
    "run on other data": (other_data, r"run: the run was trained on other data .*data\.allow_change=true"),
    "heads against tensor": (
        given("parallel.tensor=4", "cluster.processes=4"),
        r"model\.heads \(2\) must be a multiple of parallel\.tensor \(4\); lower parallel\.tensor",
    ),
    "tensor against ranks": (
        given("parallel.tensor=2", "model.kv_heads=2", "cluster.processes=3"),
        r"parallel\.tensor \(2\) must divide the number of ranks \(3\); start a multiple",
    ),
    "ZeRO 0": (given("parallel.zero=0"), r"parallel\.zero \(0\) must be 1, 2 or 3"),
    "unknown key": (given("train.step=3"), r"unknown key train\.step; did you mean train\.steps\?"),
    "unknown section": (appended("training: {steps: 3}\n"), r"config\.yaml: unknown key training; did you"),
    "DeepSpeed key that is ours": (
        given("deepspeed.zero_optimization.stage=2"),
        r"deepspeed\.zero_optimization\.stage is owned by megatrain: set parallel\.zero instead",
    ),
    "bad YAML": (appended("train: {steps: [\n"), r"config\.yaml, line \d+: not valid YAML: "),
    "key twice": (appended("train: {steps: 3}\n"), r"config\.yaml, line \d+: not valid YAML: .*second time"),
    "not an assignment": (given("train.steps"), r"override 'train\.steps' is not of the form"),
    "wrong type": (
        given("train.steps=many"),
        r"config\.yaml: train\.steps \('many'\) must be a whole number",
    ),
    "newer config": (given("version=99"), r"version"),
    "newer dataset": (newer_dataset, r"train/manifest\.json: format version 99 is newer .*; upgrade"),
    "newer checkpoint": (newer_checkpoint, r"step-00000010.*: checkpoint version 99 is newer .*; upgrade"),
    "newer state": (newer_state, r"run state version 99 is newer .*; upgrade"),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_run_that_cannot_be(command: str, name: str, call: Call, scene: Scene) -> None:
    change, message = RUNS[name]
    overrides = change(scene) or []
    code = 1 if name in ("shard cut short", "shard missing") else 2  # damage, and wrong calls
    line = refused(call, scene, command, "config.yaml", *overrides, code=code)
    assert re.search(message, line), line


@pytest.mark.parametrize("command", ["check", "train", "verify-resume", "prepare"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"none\.yaml: no such config"),
        (lambda path: path.mkdir(), r"none\.yaml: cannot be read as a config: .*directory"),
        (lambda path: path.write_bytes(b"run: \xff\xfe"), r"none\.yaml: cannot be read as a config: .*utf-8"),
        (lambda path: path.write_text("- a list"), r"none\.yaml: a config is a mapping of sections"),
        (
            lambda path: path.write_text("version: 99\n"),
            r"none\.yaml: config version 99 is newer .*; upgrade",
        ),
    ],
)
def test_a_config_that_cannot_be_read(
    command: str, make: Callable[[Path], Any], message: str, call: Call, scene: Scene
) -> None:
    make(scene.folder / "none.yaml")
    line = refused(call, scene, command, "none.yaml")
    assert re.search(message, line), line


def test_a_config_of_nearly_this_name(call: Call, scene: Scene) -> None:
    assert "did you mean config.yaml?" in refused(call, scene, "train", "konfig.yaml")


def test_a_port_in_use(call: Call, scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = refused(call, scene, "train", "config.yaml", f"cluster.master_port={port}")
    assert f"cluster.master_port ({port}) is in use on this machine; choose another" in line


@pytest.mark.parametrize("command", ["check", "train"])
def test_no_room_for_a_checkpoint(
    command: str, call: Call, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, (1 << 40) - 1000, 1000))
    line = refused(call, scene, command, "config.yaml")
    assert re.search(r"run\.folder \(run\): no room for checkpoints: 0\.0 GiB free, .* needed; choose", line)


@pytest.mark.parametrize("folder", ["file", "file/run", "file/deeper/run"])
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_file_where_the_run_folder_should_be(command: str, folder: str, call: Call, scene: Scene) -> None:
    (scene.folder / "file").write_text("mine")
    line = refused(call, scene, command, "config.yaml", f"run.folder={folder}")
    assert folder in line


# --- a rehearsal ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layouts", "tp2dp1"], r"--layouts: 'tp2dp1' is not of the form tpT-dpD-zeroZ; write it like"),
        (
            ["--layouts", "tp1-dp1-zero2", "tp2-dp1-zero3"],
            r"layout tp2-dp1-zero3: model\.kv_heads \(1\) must be a multiple of parallel\.tensor \(2\)",
        ),
        (["--layouts", "tp1-dp2-zero0"], r"layout tp1-dp2-zero0: parallel\.zero \(0\) must be 1, 2 or 3"),
        (["--layouts", "tp1-dp2-zero9"], r"layout tp1-dp2-zero9: parallel\.zero \(9\) must"),
        (["--before", "0"], r"--before \(0\) must be at least 1"),
        (["--after", "-1"], r"--after \(-1\) must be at least 1"),
        (
            ["--before", "9", "--after", "2"],
            r"--before \(9\) \+ --after \(2\) must not be above train\.steps \(10\)",
        ),
        (["--tolerance", "-0.5"], r"--tolerance \(-0\.5\) must be 0 or more"),
        (["--tolerance", "nan"], r"--tolerance \(nan\) must be 0 or more"),
        (["--folder", "data"], r"--folder \(data\) exists and was not made by an earlier rehearsal; choose"),
        (["--folder", "config.yaml"], r"--folder \(config\.yaml\) exists and was not made by an earlier"),
        (["--folder", "run/inner"], r"--folder \(run/inner\) must lie apart from run\.folder \(run\)"),
        (["--folder", "."], r"--folder \(\.\) must lie apart from run\.folder \(run\)"),
        (
            ["cluster.processes=3", "parallel.tensor=2", "model.kv_heads=2"],
            r"parallel\.tensor \(2\) must divide",
        ),
        (["data.sources=[{path: nowhere}]"], r"nowhere/train: no such dataset folder"),
        (["train.step=3"], r"unknown key train\.step; did you mean train\.steps\?"),
    ],
)
def test_a_rehearsal_that_cannot_be(words: list[str], message: str, call: Call, scene: Scene) -> None:
    line = refused(call, scene, "verify-resume", "config.yaml", *words)
    assert re.search(message, line), line


# --- preparation ---


def data_config(scene: Scene, content: bytes | None, **changes: Any) -> Path:
    if content is not None:
        (scene.folder / "raw.jsonl").write_bytes(content)
    tree = {"output": "out", "workers": 1, "sources": {"raw": {"files": ["raw.jsonl"]}}, **changes}
    path = scene.folder / "prepare.yaml"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (None, {}, r"sources\.raw\.files: raw\.jsonl: no such file"),
        (b"", {}, r"sources\.raw\.files: every file is empty .*; give it text"),
        (b"x\n", {"output": "config.yaml"}, r"config\.yaml.*is a file; choose another"),
        (b"x\n", {"output": "."}, r"output \(\.\): names no folder that could be made anew"),
        (b"x\n", {"output": "/"}, r"output \(/\): names no folder"),
        (b"x\n", {"output": "x/.."}, r"output \(x/\.\.\): names no folder"),
        (b"x\n", {"sources": {}}, r"prepare\.yaml: sources "),
        (b"x\n", {"filters": {}}, r"unknown key filters"),
        (b'{"text": "x"}\n', {"output": "data"}, r"data: was prepared by another config .*overwrite=true"),
    ],
)
def test_a_preparation_that_cannot_be(
    content: bytes | None, changes: dict[str, Any], message: str, call: Call, scene: Scene
) -> None:
    line = refused(call, scene, "prepare", data_config(scene, content, **changes))
    assert re.search(message, line), line


def test_nothing_that_can_be_used_is_one_last_line(call: Call, scene: Scene) -> None:
    """Reading has begun by then, and its progress is on stderr too; no output appears."""
    before = scene.files().keys() | {"raw.jsonl", "prepare.yaml"}
    ended = call("prepare", data_config(scene, b'{"text": "\xff"}\n', clean={"invalid_utf8": "skip"}))
    assert ended.code == 2
    assert re.search(
        r"megatrain: sources\.raw: no document is left \(.*read\.invalid_bytes 1.*\); check", ended.err
    )
    assert ended.err.splitlines()[-1].startswith("megatrain: ") and "Traceback" not in ended.err
    # A hidden folder of unfinished work may stay, for the next preparation.
    assert {name for name in scene.files() if not name.startswith((".out.partial", ".out.work"))} == before


def test_bytes_that_are_not_utf8_are_counted(call: Call, scene: Scene) -> None:
    lines = [json.dumps({"text": f"line {n} of some text"}).encode() for n in range(400)]
    config = data_config(
        scene, b"\n".join([*lines, b'{"text": "odd \xff\xfe bytes"}']), tokenizer={"vocab_size": 300}
    )
    ended = call("prepare", config)
    assert ended.code == 0, ended.err
    made = json.loads(call("data", "stats", "out", "--json").out)["made"]
    assert made["changes"]["raw"]["read.invalid_bytes"] == 1
    assert call("data", "verify", "out").code == 0


# --- damage ---


def test_a_flipped_byte_in_a_shard_is_named(call: Call, scene: Scene) -> None:
    assert call("data", "verify", "data").code == 0
    flip_byte(scene.data / "train" / "shard-00001.arrow")
    for folder in ("data", "data/train"):
        ended = call("data", "verify", folder)
        assert (ended.code, ended.out.count("\n")) == (1, 1)
        assert re.search(
            r"data/train/shard-00001\.arrow: shard damaged: .*; prepare .* or restore", ended.out
        )
        assert ended.err.splitlines()[-1] == f"megatrain: {folder}: 1 fault; it is named above"


def test_damaged_datasets(call: Call, scene: Scene) -> None:
    for command in ("inspect", "verify", "stats"):
        assert "no prepared dataset there" in refused(call, scene, "data", command, "nowhere")
    cut_short(scene)
    assert "shard-00000.arrow: shard cut short" in call("data", "verify", "data", "--quick").out
    for command in ("inspect", "stats"):
        assert "shard-00000.arrow: shard cut short" in refused(call, scene, "data", command, "data", code=1)
    manifest = scene.data / "train" / "manifest.json"
    edit_json(manifest, split="test")
    assert "train/manifest.json: damaged" in call("data", "verify", "data").out
    assert "train/manifest.json: damaged" in refused(call, scene, "data", "stats", "data", code=1)
    manifest.write_text("{")
    assert "train/manifest.json: damaged" in refused(call, scene, "train", "config.yaml", code=1)


READERS = (["evaluate"], ["export"], ["generate", "--prompt", "x"], ["checkpoint", "verify"])


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_a_flipped_byte_in_the_only_checkpoint_is_named(words: list[str], call: Call, scene: Scene) -> None:
    checkpoint = scene.checkpoint()
    shutil.copy(scene.config, scene.run / "config.yaml")
    damaged = checkpoint / "attempt-00001-rank-00001.safetensors"
    flip_byte(damaged, damaged.stat().st_size - 5)
    before = scene.files()
    ended = call(*words, "run")
    assert ended.code == 1 and scene.files() == before
    assert ended.err.count("\n") == 1
    assert f"step-00000010: {damaged.name}: hash differs" in ended.err or (
        words[0] == "checkpoint" and f"step-00000010  {damaged.name}: hash differs" in ended.out
    )


@pytest.mark.parametrize("words", [*READERS, ["checkpoint", "ls"], ["report"]], ids=" ".join)
def test_a_folder_that_is_no_run(words: list[str], call: Call, scene: Scene) -> None:
    for folder in ("nowhere", "data", "config.yaml"):
        assert folder in refused(call, scene, *words, folder)


def damaged_runs(rank: int, shard: list[str], checkpoint: list[str]) -> list[int]:
    """What the rank program says of a damaged shard and of a damaged checkpoint."""
    from megatrain.train.main import main

    return [main(shard), main(checkpoint)]


def test_training_on_damage_ends_with_1(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    """What only the ranks look at: the hash of each shard, the hash of each file of the checkpoint."""
    checkpoint = scene.checkpoint()
    damaged = checkpoint / "attempt-00001-rank-00000.safetensors"
    flip_byte(damaged, damaged.stat().st_size - 5)
    flip_byte(scene.data / "train" / "shard-00000.arrow")
    common = ["--config", str(scene.config), "data.allow_change=true"]
    codes = run_ranks(
        damaged_runs, 2, [*common, "run.folder=fresh"], [*common, "data.verify=size"], timeout_s=280
    )
    assert codes == [[1, 1], [1, 1]]
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("megatrain: ")]
    assert re.search(r"data/train/shard-00000\.arrow: shard damaged: .*; prepare", said[0])
    assert re.search(
        rf"run/checkpoints: no checkpoint is whole \(step-00000010: {damaged.name}: hash", said[1]
    )
    assert len(said) == 2, "rank 0 alone speaks"
    (fail,) = events(scene.folder / "fresh", "fail")
    assert said[0] == f"megatrain: {fail['cause']}" and not curve(scene.folder / "fresh")
    assert checkpoint.exists()
