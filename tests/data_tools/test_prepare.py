"""A preparation, end to end: what comes out, twice, over processes, killed, and with bad input."""

import glob
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data_tools import collected, output, prepare, tokenize
from data_tools.config import DataConfig, Duplicates, load_config
from data_tools.duplicates.settings import Paragraphs
from data_tools.progress import Progress
from data_tools.verify import faults
from data_tools.where import Local
from megatrain.data.dataset import TokenDataset
from megatrain.data.shard import read_shard
from megatrain.data.tokenizer import Tokenizer
from megatrain.durable import hash_file
from megatrain.errors import UserError

REPOSITORY = Path(__file__).parents[2]
QUIET = Progress(io.StringIO())


def _poems(count: int, word: str) -> list[str]:
    rng = np.random.default_rng(len(word))
    words = ["".join(rng.choice(list("aeionrst"), 4)) for _ in range(60)]
    return [f"{word} {n}\n\n" + " ".join(rng.choice(words, 30)) + "。\n" for n in range(count)]


def _write(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    _write(tmp_path / "a.jsonl", [*_poems(150, "alpha"), "shared", " \n"])
    (tmp_path / "a.jsonl").open("ab").write(b'{"text": "broken\n{"text": "odd \xff bytes"}\n')
    _write(tmp_path / "b.jsonl", [*_poems(60, "beta"), "shared", *_poems(2, "alpha")])
    return DataConfig(
        output=str(tmp_path / "out"),
        where={"engine": "local", "workers": 1},
        sources={name: {"files": [str(tmp_path / f"{name}.jsonl")]} for name in "ab"},
        split={"validation": 0.1, "test": 0.1},
        tokenizer={"vocab_size": 320},
        shards={"max_tokens": 4000},
    )


def _files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hash_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _texts(folder: Path) -> dict[tuple[str, str], list[str]]:
    """The decoded documents of each (split, source), in stored order."""
    tokenizer = Tokenizer.load(folder)
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.glob("*/*.arrow")):
        for document in read_shard(path):
            assert document.tokens[-1] == tokenizer.eos_id
            text = tokenizer.decode(document.tokens[:-1])
            found.setdefault((path.parent.name, document.source), []).append(text)
    return found


def test_all_documents_come_out_once(config: DataConfig) -> None:
    prepared = prepare.prepare(config, QUIET)
    texts = _texts(prepared.folder)
    by_source = {
        name: sorted(text for place in texts for text in texts[place] if place[1] == name) for name in "ab"
    }
    assert by_source["a"] == sorted([*_poems(150, "alpha"), "shared", "odd \ufffd bytes"])
    assert by_source["b"] == sorted(_poems(60, "beta"))
    counts = prepared.splits["train"].made["counts"]
    a, b = counts["a"], counts["b"]
    assert (a["read"], a["read.broken_json"], a["length.empty"]) == (154, 1, 1)
    assert prepared.splits["train"].made["changes"]["a"] == {"read.invalid_bytes": 1}
    assert a["kept"] == 152 and "duplicates.exact" not in a
    assert (b["kept"], b["duplicates.exact"]) == (60, 3)
    assert set(prepared.splits) == {"train", "validation", "test"}
    for name, manifest in prepared.splits.items():
        dataset = TokenDataset.open(prepared.folder / name)
        dataset.verify()
        assert dataset.tokenizer().vocab_size == dataset.vocab_size == 320
        assert all(shard.tokens <= 4000 and shard.documents for shard in manifest.shards)
        for shard in manifest.shards:
            assert shard.documents == len(list(read_shard(prepared.folder / name / shard.name)))
    assert len(prepared.splits["train"].shards) > 3
    table = prepare.summary(prepared)
    assert "train" in table and "bytes/token" in table


def test_the_output_depends_on_config_and_files_alone(config: DataConfig, tmp_path: Path) -> None:
    first = prepare.prepare(config, QUIET).folder
    change = {"output": str(tmp_path / "two"), "where": Local(workers=2)}
    again = prepare.prepare(config.model_copy(update=change), QUIET)
    assert _files(again.folder) == _files(first)


def test_one_large_file_is_encoded_by_several_tasks(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"duplicates": Duplicates(paragraphs=Paragraphs(min_units=1))})
    first = prepare.prepare(config, QUIET).folder
    monkeypatch.setattr(collected, "_BATCH_BYTES", 2000)
    monkeypatch.setattr(tokenize, "_BATCHES_A_TASK", 2)
    said = io.StringIO()
    again = prepare.prepare(config.model_copy(update={"output": str(tmp_path / "two")}), Progress(said))
    tasks = re.search(r"tokenize, tasks: (\d+)", said.getvalue())
    assert tasks is not None and int(tasks[1]) >= 8
    assert _files(again.folder) == _files(first)


def test_a_second_run_does_nothing_and_another_config_is_refused(config: DataConfig, tmp_path: Path) -> None:
    told = io.StringIO()
    folder = prepare.prepare(config, Progress(told)).folder
    assert re.search(r"a: \d+ documents read, \d+ kept \(\d+\.\d%\)", told.getvalue())
    assert (
        told.getvalue().rstrip().endswith("for lengths, languages and drops")
        and str(folder) in told.getvalue()
    )
    before = _files(folder)
    os.utime(tmp_path / "a.jsonl", (1, 1))  # As after a fresh clone: other time, same content.
    said = io.StringIO()
    assert not prepare.prepare(config, Progress(said)).made_now
    assert "nothing to do" in said.getvalue()
    record = output.read_record(folder)
    assert record is not None
    output.write_record(folder, {**record, "pipeline_version": 1})
    with pytest.raises(
        UserError, match=r"another config \(pipeline_version: 1 there, \d+ now\).*overwrite=true"
    ):
        prepare.prepare(config, QUIET)
    output.write_record(folder, record)
    other = config.model_copy(update={"seed": 5})
    with pytest.raises(UserError, match=r"another config \(seed: 0 there, 5 now\).*overwrite=true"):
        prepare.prepare(other, QUIET)
    assert _files(folder) == before
    replaced = prepare.prepare(other.model_copy(update={"overwrite": True}), QUIET)
    assert replaced.made_now and _texts(folder) != {} and _files(folder) != before
    (tmp_path / "a.jsonl").open("a").write('{"text": "one more"}\n')
    with pytest.raises(UserError, match=r"other files \(.*a\.jsonl"):
        prepare.prepare(other, QUIET)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_added_data_moves_no_document(config: DataConfig, tmp_path: Path) -> None:
    before = _texts(prepare.prepare(config, QUIET).folder)
    _write(tmp_path / "c.jsonl", _poems(80, "gamma"))
    more = {**config.model_dump(), "output": str(tmp_path / "more")}
    more["sources"] = {"c": {"files": [str(tmp_path / "c.jsonl")]}, **more["sources"]}
    after = _texts(prepare.prepare(DataConfig.model_validate(more), QUIET).folder)
    for place, texts in before.items():
        assert after[place] == texts  # Nor does it change the order of the others.


def test_foreign_folders_and_two_at_once_are_refused(config: DataConfig, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with output.locked(folder), pytest.raises(UserError, match="another preparation into it is running"):
        prepare.prepare(config, QUIET)
    folder.mkdir()
    (folder / "thesis.doc").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not a prepared dataset"):
            prepare.prepare(config.model_copy(update={"overwrite": overwrite}), QUIET)
    assert _files(folder).keys() == {"thesis.doc"}
    (folder / "thesis.doc").unlink()
    inside = config.model_copy(update={"output": str(tmp_path / "a.jsonl" / "out")})
    with pytest.raises(UserError, match=r"output \(.*a\.jsonl/out\): cannot be written"):
        prepare.prepare(inside, QUIET)
    assert prepare.prepare(config, QUIET).made_now  # An empty folder is nobody's.


def test_killed_at_any_moment_leaves_nothing_half_made(config: DataConfig, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "data_tools.prepare", str(path)]
    moments = (
        (".out.work/collect-*/00000", signal.SIGKILL),
        (".out.work/tokenizer-*", signal.SIGINT),
        (".out.work/tokenize-*/.0*", signal.SIGKILL),
        (".out.work/shards-*/00001", signal.SIGKILL),
        (".out.partial/train/*.arrow", signal.SIGKILL),
    )
    for appeared, how in moments:
        code, said = _signalled(command, str(tmp_path / appeared), how, tmp_path / "out")
        assert code in (-how, 130), said
        assert not (tmp_path / "out").exists()
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "collect: 2 of 2 tasks were done before" in finished.stderr
    reference = prepare.prepare(config.model_copy(update={"output": str(tmp_path / "reference")}), QUIET)
    assert _files(tmp_path / "out") == _files(reference.folder)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def _signalled(command: list[str], appeared: str, how: signal.Signals, out: Path) -> tuple[int, str]:
    """Exit code and words of the command, signalled once a file has appeared; a run that was faster is
    made again."""
    for _ in range(20):
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A suite that was started in the background of a shell hands down that SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and not glob.glob(appeared):
            time.sleep(0.002)
        process.send_signal(how)
        _, said = process.communicate(timeout=120)
        if process.returncode:
            return process.returncode, said
        shutil.rmtree(out)
    raise AssertionError("every run ended before the signal came")


@pytest.mark.parametrize(
    ("content", "change", "message"),
    [
        (None, {}, "no such file"),
        (b"", {}, "every file is empty"),
        (b"\n \n", {}, "no document is left"),
        (
            b'{"body": "x"}\n',
            {},
            "none of the first 1 records of .* gives a text .*its columns are body.*; name the column",
        ),
        (b'{"text": "\xff\xff"}\n', {"clean": {"invalid_utf8": "skip"}}, "read.invalid_bytes"),
        (b'{"text": "little"}\n', {"split": {"validation": 0, "test": 0}}, "tokenizer.vocab_size"),
        (
            b'{"text": "little"}\n',
            {"tokenizer": {"model": "/nowhere"}},
            "tokenizer.model: /nowhere: cannot be read",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    tmp_path: Path, content: bytes | None, change: dict, message: str, capsys: pytest.CaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "x.jsonl").write_bytes(content)
    tree = {
        "output": str(tmp_path / "out"),
        "workers": 1,
        "sources": {"x": {"files": [str(tmp_path / "x.jsonl")]}},
    }
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps({**tree, **change}))
    assert prepare.main([str(path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("megatrain: ")
    assert re.search(message, last), last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"cleen": {}}], "no step is called cleen; did you mean clean?"),
        ([{"clean": {"fix": True}}], "unknown key clean.fix"),
        ([{"length": {"min_characters": "few"}}], "length.min_characters ('few') must be a whole number"),
        ([{"clean": {}, "length": {}}], "write its name and its settings"),
        ("clean", "must be a list of steps"),
    ],
)
def test_bad_steps_are_told(tmp_path: Path, steps: object, message: str) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(json.dumps({"output": "out", "sources": {"x": {"files": ["x"]}}, "steps": steps}))
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(path)


def test_a_config_of_version_1_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    tree = {"output": "out", "sources": {"x": {"files": ["x"]}}}
    old = {
        "workers": 3,
        "clean": {"fix_encoding": True},
        "filter": {"min_characters": 5},
        "deduplicate": "none",
    }
    path.write_text(json.dumps({"version": 1, **tree, **old}))
    steps = [{"clean": {"fix_encoding": True}}, {"length": {"min_characters": 5}}]
    new = {"where": {"engine": "local", "workers": 3}, "steps": steps, "duplicates": {"exact": False}}
    assert load_config(path) == DataConfig.model_validate({**tree, **new})
    path.write_text(json.dumps({**tree, **old}))
    assert load_config(path) == DataConfig.model_validate({**tree, **new})


def test_an_existing_tokenizer_is_used(config: DataConfig, tmp_path: Path) -> None:
    first = prepare.prepare(config, QUIET)
    model = str(first.folder / "tokenizer" / "tokenizer.model")
    other = {**config.model_dump(), "output": str(tmp_path / "two"), "tokenizer": {"model": model}}
    second = prepare.prepare(DataConfig.model_validate(other), QUIET)
    assert {n: m.fingerprint for n, m in second.splits.items()} == {
        n: m.fingerprint for n, m in first.splits.items()
    }


def test_what_lies_beside_the_shards_is_verified(config: DataConfig, tmp_path: Path) -> None:
    sound = prepare.prepare(config, QUIET).folder
    assert list(faults(sound, progress=QUIET)) == list(faults(sound, quick=True, progress=QUIET)) == []
    record = json.loads((sound / "prepared.json").read_text())
    named = {str(path.relative_to(sound)) for path in sound.rglob("*") if path.is_file()}
    shards = {name for name in named if re.match(r"(train|validation|test)/.*\.arrow", name)}
    assert set(record["beside"]) == named - shards - {"prepared.json"}

    def flipped(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    for what, damage, quick in (
        ("lineage/train/shard-00000.parquet: changed: its hash is", flipped, False),
        ("duplicates/00001/ids.arrow: changed: its hash is", flipped, False),
        ("dropped/a.jsonl: changed: ", lambda path: path.write_text("x"), True),
        ("duplicates/parts.json: missing", Path.unlink, True),
        ("prepared.json: missing", Path.unlink, True),
        ("prepared.json: damaged (Expecting value", lambda path: path.write_text("x"), True),
    ):
        folder = shutil.copytree(sound, tmp_path / "copy")
        damage(folder / what.partition(":")[0])
        for told in [list(faults(folder, quick=quick, progress=QUIET)) for quick in {quick, False}]:
            assert len(told) == 1 and told[0].startswith(f"{folder}/{what}"), told
        shutil.rmtree(folder)
    folder = shutil.copytree(sound, tmp_path / "copy")
    shutil.rmtree(folder / "test")
    shutil.rmtree(folder / "lineage" / "test")  # no trace of the split but the record
    told = list(faults(folder, quick=True, progress=QUIET))
    assert f"{folder}/test/manifest.json: missing; prepare the dataset again or restore this file" in told
    assert list(faults(folder / "train", progress=QUIET)) == [], "a split may stand by itself"


def test_languages_are_of_what_is_kept_and_cuts_are_counted(config: DataConfig, tmp_path: Path) -> None:
    """Duplicates spoke too, but they are gone."""
    lines = (poem.split("\n")[2] for poem in _poems(12, "omega"))
    own = "".join(f"{line} This is nobody else's.\n\n" for line in lines)
    shared = "This paragraph of some length stands in both of the documents, word for word.\n\n"
    texts = [own + shared, shared + own.replace("nobody", "no one"), own + shared]
    rows = [{"text": text, "language": "en"} for text in texts] + [
        {"text": "Alone but French.", "language": "fr"}
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = config.model_dump(mode="json")
    tree["sources"]["a"]["metadata"] = {"language": "language"}
    tree["duplicates"] = {"exact": True, "paragraphs": {"min_units": 5}}
    made = next(iter(prepare.prepare(DataConfig.model_validate(tree), QUIET).splits.values())).made
    assert made["languages"]["a"] == {"en": 2, "fr": 1} and made["counts"]["a"]["duplicates.exact"] == 1
    assert made["changes"]["a"]["duplicates.cut_documents"] == 1
    assert made["changes"]["a"]["duplicates.cut_bytes"] >= len(shared.strip())
    assert made["changes"]["b"] == {}


def test_a_source_more_is_told_how_to_be_added(config: DataConfig, tmp_path: Path) -> None:
    prepare.prepare(config, QUIET)
    _write(tmp_path / "c.jsonl", _poems(20, "gamma"))
    tree = config.model_dump(mode="json")
    tree["sources"]["c"] = {"files": [str(tmp_path / "c.jsonl")]}
    with pytest.raises(UserError, match=r"append=true adds c; or choose another output") as error:
        prepare.prepare(DataConfig.model_validate(tree), QUIET)
    assert len(str(error.value)) < 400
    with pytest.raises(UserError) as error:
        prepare.prepare(DataConfig.model_validate({**tree, "seed": 3}), QUIET)
    assert "append=true" not in str(error.value)


def test_a_source_is_added_without_touching_what_is_there(config: DataConfig, tmp_path: Path) -> None:
    """Cut off in the middle and done again; its duplicates of what is there go, and nothing else changes."""
    folder = prepare.prepare(config, QUIET).folder
    before = _files(folder)
    _write(tmp_path / "c.jsonl", [*_poems(90, "gamma"), "shared", *_poems(3, "beta")])
    tree = {**config.model_dump(mode="json"), "append": True}
    tree["sources"] = {"c": {"files": [str(tmp_path / "c.jsonl")]}, **tree["sources"]}
    path = tmp_path / "more.yaml"
    path.write_text(json.dumps(tree))
    command = [sys.executable, "-m", "data_tools.prepare", str(path)]
    shards = len(list(folder.glob("train/*.arrow")))
    appeared = str(folder / "train" / f"shard-{shards + 1:05d}.arrow")
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not glob.glob(appeared):
        time.sleep(0.001)
    process.kill()
    process.wait()
    (tmp_path / "a.jsonl").unlink()  # what is there needs its raw files no more
    more = DataConfig.model_validate(tree)
    prepared = prepare.prepare(more, QUIET)
    after = _files(folder)
    changed = {name for name, found in before.items() if after[name] != found}
    assert changed == {
        "prepared.json",
        "duplicates/parts.json",
        *(f"{split}/manifest.json" for split in prepared.splits),
    }
    texts = _texts(folder)
    assert sorted(t for place in texts for t in texts[place] if place[1] == "c") == sorted(
        _poems(90, "gamma")
    )
    made = prepared.splits["train"].made
    assert made["counts"]["c"] == {
        "duplicates.exact": 4,
        "kept": 90,
        "kept_bytes": made["counts"]["c"]["kept_bytes"],
        "read": 94,
    }
    assert set(made["counts"]) == set(made["config"]["sources"]) == set("abc")
    for split in prepared.splits:
        TokenDataset.open(folder / split).verify()
    assert list(faults(folder, progress=QUIET)) == []
    assert not prepare.prepare(more, QUIET).made_now
    assert _files(folder) == after
    (tmp_path / "b.jsonl").open("a").write('{"text": "one more document of an old source"}\n')
    with pytest.raises(UserError, match=r"other files \(.*b\.jsonl differs\); what is there cannot change"):
        prepare.prepare(more, QUIET)
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(UserError, match=r"another config \(seed: 0 there, 5 now\); sources can be added"):
        prepare.prepare(more.model_copy(update={"seed": 5}), QUIET)
