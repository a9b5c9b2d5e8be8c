"""The samples of any step: what is said of a run is what its ranks have read, and will read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_tools.packing import pack
from megatrain.cli.main import main
from megatrain.config import Config, to_yaml
from megatrain.errors import UserError
from megatrain.observe.samples import read_samples
from megatrain.state import RunFolder
from megatrain.train.past import samples_of_step
from tests.distributed.corpus import Play, curve, run_config
from tests.distributed.ranks import run_ranks
from tests.faults.test_bad_numbers import ROLLBACK, TWO_BAD, play_bad

PHASES = (
    "data.phases=[{from_tokens: 0, weights: {prose: 3, verse: 1}}, {from_tokens: 700, weights: {verse: 1}}]"
)
LONGER = "data.sequence_length=64"  # of which a row has room for two ends of documents
BLOCKS = ("data.shuffle.kind=block", "data.shuffle.block=4", "data.shuffle.window=3")


def told(where: Path, step: int, *overrides: str) -> list[int]:
    return [sample.sample for sample in samples_of_step(where, step, overrides).samples]


@pytest.fixture(scope="module")
def folder(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of which one went back, left samples out and stopped at step 7; both on two ranks."""
    folder = tmp_path_factory.mktemp("past")

    def config(name: str, *options: str) -> Config:
        return run_config(corpus, folder / name, *ROLLBACK, PHASES, *BLOCKS, *options)

    shutil.copytree(corpus, folder / "data")
    pack(folder / "data" / "train", 64)
    own = (f"data.sources=[{{path: '{folder / 'data'}'}}]", "data.packing=best_fit", LONGER, "train.steps=4")
    plays = [
        Play(config("plain", "train.steps=4")),
        Play(config("back"), touch={7: "STOP"}),
        Play(config("packed", *own)),
        Play(config("packed concat", *own, "data.document_mask=false")),
    ]
    ends = run_ranks(play_bad, 2, plays, {"back": TWO_BAD})
    assert ends == [["done", "asked", "done", "done"]] * 2
    (folder / "back.yaml").write_text(to_yaml(config("back")))
    return folder


def test_what_was_read(folder: Path) -> None:
    for name, last in (("plain", 4), ("back", 7), ("packed", 4), ("packed concat", 4)):
        read = read_samples(RunFolder(folder / name))
        assert max(read) >= last
        for step, ranks in read.items():
            assert told(folder / name, step) == sorted(sample for rank in ranks for sample in rank)
    everything = [sample for step in range(1, 8) for sample in told(folder / "back", step)]
    left_out = set(range(20, 30))
    assert everything == [sample for sample in range(45) if sample not in left_out]


def test_packed_rows_are_trained_on(folder: Path) -> None:
    losses = [told[0] for told in curve(folder / "packed").values()]
    assert len(losses) == 4 and all(0 < loss < 7 for loss in losses)
    # Attention over the borders of documents, and labels across them, make another loss.
    assert losses != [told[0] for told in curve(folder / "packed concat").values()]


def test_what_will_be_read(folder: Path, tmp_path: Path) -> None:
    # By the folder of the run, or by its config, which names it.
    for where in (folder / "back", folder / "back.yaml"):
        assert told(where, 10) == [55, 56, 57, 58, 59]
    # Where nothing was written yet.
    assert told(folder / "back.yaml", 10, f"run.folder={tmp_path / 'new'}") == [45, 46, 47, 48, 49]
    # From the checkpoint alone.
    moved = tmp_path / "moved"
    shutil.copytree(folder / "back", moved)
    (moved / "metrics.jsonl").unlink()
    assert told(moved, 10) == [55, 56, 57, 58, 59] and told(moved, 2) == [5, 6, 7, 8, 9]


def test_where_each_sample_lies(folder: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "samples", str(folder / "plain"), "--step", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "sample source epoch window shard tokens" and len(lines) == 5
    for number, line in enumerate(lines):
        sample, source, epoch, window, shard, span = line.split()
        assert (int(sample), epoch) == (number, "0") and source in ("prose", "verse")
        first, last = map(int, span.split("-"))
        assert last - first == 32 and first % 32 == 0 and int(window) >= 0
        assert Path(shard).is_file() and Path(shard).parent == corpus / "train"
    # All from the second phase: its first sample is number ceil(700 / 32) = 22.
    assert {sample.source for sample in samples_of_step(folder / "plain", 4).samples} == {"prose", "verse"}
    later = samples_of_step(folder / "back.yaml", 9, ["run.folder=nowhere"]).samples
    assert {sample.source for sample in later} == {"verse"}


def test_bad_input(folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="neither a config nor the folder of a run"):
        samples_of_step(tmp_path, 1)
    for step in (0, 11):
        with pytest.raises(UserError, match=rf"--step \({step}\): .* the run has 10 \(train.steps\)"):
            samples_of_step(folder / "back", step)
    with pytest.raises(UserError, match=r"trained on other data or in another order \(data.sources: which"):
        samples_of_step(folder / "back", 1, ["data.shuffle.block=5"])
    assert main(["data", "samples", str(tmp_path), "--step", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_that_packs(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    assert main(["data", "pack", str(data), "--sequence-length", "32", "--workers", "2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["source", "prose", "verse", "all"]
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(run_config(data, tmp_path / "run", "data.packing=best_fit")))
    assert main(["check", str(config), "--ranks", "1"]) == 0
    capsys.readouterr()
    assert main(["data", "samples", str(config), "--step", "2"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    spans = [tuple(map(int, span.split("-"))) for span in line.split()[5:]]
    assert spans and all(0 <= last - first <= 32 for first, last in spans)
    assert main(["data", "pack", str(tmp_path), "--sequence-length", "32"]) == 2
    assert "no prepared dataset there" in capsys.readouterr().err
    assert main(["check", str(config), "--ranks", "1", "data.sequence_length=16"]) == 2
    assert f"megatrain data pack {data}/train --sequence-length 16" in capsys.readouterr().err
