"""`megatrain data ...` on a finished dataset: what it says, and what it leaves."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.datasets.shards import open_splits
from megatrain.cli.main import _parse
from megatrain.config import load_config
from megatrain.data.mixture import TokenMixture
from megatrain.data.training import TrainingSamples
from tests.cli.conftest import Call, Scene


def test_inspect_shows_sizes_and_the_same_documents_again(call: Call, scene: Scene) -> None:
    ended = call("data", "inspect", "data", "--documents", 2)
    assert (ended.code, ended.err) == (0, "")
    assert open_splits(scene.data)["test"].fingerprint in ended.out
    ids = re.findall(r"^--- ([0-9a-f]{32}), ", ended.out, re.MULTILINE)
    assert len(ids) == 2
    assert call("data", "inspect", "data", "--documents", 2).out == ended.out
    assert call("data", "inspect", "data", "--documents", 2, "--seed", 1).out != ended.out
    for chosen in (["--document", ids[0]], ["--containing", "verse 7 。", "--documents", 1]):
        shown = call("data", "inspect", "data", *chosen)
        assert (shown.code, shown.out.count("--- ")) == (0, 1)


def test_a_sample_of_a_run_comes_from_where_training_reads_it(call: Call, scene: Scene) -> None:
    config = load_config(scene.config)
    mixture = TokenMixture.open(config.data, "train")
    order = TrainingSamples(mixture, config.data).order(config.run.seed)
    for sample in (0, 5, 70_000):
        located = order.locate(sample, 1)
        source, window = order.sources[int(located.source[0])], int(located.window[0])
        tokens = np.empty((1, 33), np.int64)
        mixture.read(source, np.array([window]), 32, tokens)
        shown = call("data", "inspect", scene.config.name, "--sample", sample)
        assert shown.code == 0
        assert ("which ends before it" in shown.out) == (sample == 70_000)
        assert f"source     {source}, epoch {int(located.epoch[0])}, window {window:,} of" in shown.out
        text = mixture.tokenizer().decode(tokens[0])
        told = "".join(part.partition("\n")[2].rstrip("\n") for part in shown.out.split("--- ")[1:])
        assert told.replace("\n", "") == text.replace("\n", "")
    changed = call("data", "inspect", scene.config.name, "--sample", 5, "data.sequence_length=16")
    window = call("data", "inspect", "data", "--window", "train/verse:1", "--sequence-length", 16)
    assert "of 16 + 1" not in changed.out and "tokens 16 to 32" in window.out
    scene.run.mkdir()
    shutil.copy(scene.config, scene.run / "config.yaml")
    assert (
        call("data", "inspect", "run", "--sample", 70_000).out.splitlines()[1:]
        == (shown.out.splitlines()[1:])
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "--sample", "1"], "data: with --sample, name the config of a run, or its folder"),
        (["nowhere.yaml", "--sample", "1"], "nowhere.yaml: with --sample, name the config"),
        (["data", "run.seed=1"], "run.seed=1: settings belong to --sample alone"),
        (["data", "--window", "verse:1"], "not of the form SPLIT/SOURCE:N with one of train/prose"),
        (["data", "--window", "train/verse:100000"], "source verse has no window 100,000"),
        (["data", "--document", "beef" * 8], "no document has an id that begins with beef"),
        (["data", "--document", "xyz"], "'xyz' is no document id"),
        (["data", "--containing", "not there"], "no document contains 'not there'"),
        (["data", "--containing", ""], "the text to look for is empty"),
    ],
)
def test_inspect_says_in_a_line_what_is_wrong(
    call: Call, scene: Scene, words: list[str], message: str
) -> None:
    ended = call("data", "inspect", *words)
    assert (ended.code, ended.err.count("\n")) == (2, 1) and message in ended.err


def test_verify(call: Call, scene: Scene) -> None:
    assert re.fullmatch(
        r"data: whole: 6 shards in .*; hashes, documents.*\n", call("data", "verify", "data").out
    )
    assert "the sizes are as" in call("data", "verify", "data", "--quick").out
    for name in ("train/shard-00000", "test/shard-00001"):
        (scene.data / f"{name}.arrow").unlink()
    ended = call("data", "verify", "data", "--workers", 1)
    assert ended.code == 1
    assert ended.out == "".join(
        f"data/{name}.arrow: shard missing; prepare the dataset again or restore this file\n"
        for name in ("train/shard-00000", "test/shard-00001")
    )


def test_stats_as_tables_json_and_a_page(call: Call, scene: Scene) -> None:
    for html, told in (("pages/stats.html", "there is no folder"), ("data", "is a folder")):
        refused = call("data", "stats", "data", "--html", html)
        assert (refused.code, refused.out) == (2, "") and told in refused.err
    (scene.folder / "pages").mkdir()
    ended = call("data", "stats", "data", "--html", "pages/stats.html")
    assert (ended.code, ended.err) == (0, "") and "from raw to kept" in ended.out
    page = (scene.folder / "pages/stats.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "prose" in page
    tree = json.loads(call("data", "stats", "data/train", "--json").out)
    assert {row["source"] for row in tree["statistics"]} == {"prose", "verse"}


@pytest.mark.parametrize("kind", ["megatron", "mds", "parquet"])
def test_export_import_and_diff(call: Call, scene: Scene, kind: str) -> None:
    written = call("data", "export", "data/train", "--format", kind, "--out", "out")
    assert written.code == 0
    paths = written.out.splitlines()
    assert paths == (["out/train"] if kind == "parquet" else ["out/train/prose", "out/train/verse"])
    inputs = [f"{path.removeprefix('out/')}={path}" for path in paths]
    words = ("--format", kind, "--tokenizer", "data", "--out", "back", "--workers", 1)
    read = call("data", "import", *inputs, *words)
    assert read.code == 0 and open_splits(scene.data)["train"].fingerprint in read.out
    compared = call("data", "diff", "data/train", "back/train")
    assert compared.code == 0 and "equal fingerprints" in compared.out
    assert "settings belong" not in compared.out and compared.err == ""
    again = call("data", "import", *inputs, *words)
    assert again.code == 2 and "back: is there already" in again.err
    assert call("data", "import", "x", *words).code == 2


def test_the_calls_in_the_documentation_parse() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/data/datasets.md").read_text(encoding="utf-8")
    calls = re.findall(r"^megatrain (data .*?)(?:  +#.*)?$", text.replace("\\\n", ""), re.MULTILINE)
    assert {call.split()[1] for call in calls} == {"inspect", "verify", "diff", "stats", "import", "export"}
    for call in calls:
        assert callable(_parse(shlex.split(call)).run)
