"""A run keeps the rule for documents that it was begun with; a new one has trained start tokens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from megatrain.checkpoint.read import Checkpoint
from megatrain.cli.main import main
from megatrain.config import load_config, to_yaml
from megatrain.data.mixture import TokenMixture
from megatrain.data.training import TrainingSamples
from megatrain.export.score import score
from megatrain.train.begun import settled, with_start

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "61de48a"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begun by a version that did not know data.document_start; the current folder is that of its config."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old" / "run"


def start_of(*overrides: str) -> str | None:
    return settled(load_config("train.yaml", overrides)).data.document_start


def test_the_rule_is_the_configs_else_that_of_the_run_else_of_a_new_one(run: Path) -> None:
    assert start_of() == "none" and start_of("run.folder=new") == "eos"
    assert start_of("data.document_start=eos") == "eos"
    (run / "config.yaml").rename("away")  # the checkpoint says so, too
    assert start_of() == "none"
    Path("away").rename(run / "config.yaml")
    shutil.rmtree(run / "checkpoints")  # begun, and nothing was saved yet
    assert start_of() == "none"
    config = with_start(load_config("train.yaml"), "eos")
    (run / "config.yaml").write_text(to_yaml(config))
    assert start_of() == "eos"


def test_another_rule_is_another_order_of_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "train.yaml", "--ranks", "1", "train.steps=20"]) == 0
    assert "  document_start: none\n" in capsys.readouterr().out
    assert main(["check", "train.yaml", "--ranks", "1", "data.document_start=eos"]) == 2
    assert "data.document_mask, data.document_start or data.packing changed" in capsys.readouterr().err
    assert main(["check", "train.yaml", "data.document_mask=false", "data.document_start=none"]) == 2
    assert "data.document_start (none): without data.document_mask" in capsys.readouterr().err


def test_the_fingerprint_of_an_old_run_is_as_it_was(run: Path) -> None:
    config = settled(load_config("train.yaml"))
    samples = TrainingSamples(TokenMixture.open(config.data, "train"), config.data)
    state = Checkpoint(run / "checkpoints" / "step-00000012").manifest.state
    assert samples.fingerprint(samples.order(config.run.seed)) == state.data_fingerprint


def test_a_model_and_its_baselines_are_scored_on_the_labels_of_its_training(run: Path) -> None:
    manifest = Checkpoint(run / "checkpoints" / "step-00000012").manifest
    config = load_config("train.yaml")
    counted = {}
    for rule, chosen in (("none", config), ("eos", with_start(config, "eos"))):
        results = score(run, "validation", config=chosen, baselines=True).results
        counts = {who: {source: held.tokens for source, held in by.items()} for who, by in results.items()}
        assert len(set(map(str, counts.values()))) == 1, counts
        counted[rule] = results["model"]["all"]
    assert counted["none"].loss == pytest.approx(manifest.validation_loss, abs=2e-6)
    data = TokenMixture.open(config.data, "validation")
    windows = sum(data.windows(source, 32) for source in data.sources)
    assert counted["none"].tokens < counted["eos"].tokens == 32 * windows
