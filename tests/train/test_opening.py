"""The config is written at each start, and shown when it is new."""

from __future__ import annotations

from pathlib import Path

from megatrain.config import load_config
from megatrain.state import RunFolder
from megatrain.train.hold import Hold
from megatrain.train.opening import _write_config
from megatrain.train.preflight import prepare_run
from tests.distributed.corpus import run_config


def test_the_config_is_shown_when_it_is_new(corpus: Path, tmp_path: Path) -> None:
    """So is what follows from it: a start on other ranks shows it again."""
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    config = run_config(corpus, folder.root)
    faster = run_config(corpus, folder.root, "schedule.learning_rate=1e-3")
    shown = [
        _write_config(folder, chosen, prepare_run(chosen, world), Hold(None, attempt, "a run"))
        for attempt, (chosen, world) in enumerate([(config, 2), (config, 2), (config, 1), (faster, 1)], 1)
    ]
    assert shown[1] == f"attempt 2, config as before ({folder.config})"
    assert "# ranks: 2" in shown[0] and "# ranks: 1" in shown[2] and "learning_rate: 0.001" in shown[3]
    assert load_config(str(folder.config)) == faster
