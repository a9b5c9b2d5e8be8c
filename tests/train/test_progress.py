"""Absent checkpoints are no fresh start where the run's folder has evidence of progress."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from megatrain.resilience.timeline import LeftOut, write_records
from megatrain.state import RunFolder
from megatrain.train.preflight import prepare_run
from megatrain.train.progress import fresh_start, newer_lost, read_progress, require_left_out
from tests.distributed.corpus import Play, events, play_runs, run_config
from tests.distributed.ranks import run_ranks
from tests.train.test_preflight import commit, refused

START = {"event": "start", "step": 0, "cause": "", "attempt": 1}


def write_logs(folder: RunFolder, *lines: dict[str, Any], steps: int = 20) -> None:
    folder.root.mkdir(exist_ok=True)
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, steps + 1)))


def committed(step: int, where: str = "") -> dict[str, Any]:
    return {"event": "commit", "step": step, "cause": where}


def rolled_back(to_step: int, first: int, last: int) -> dict[str, Any]:
    return {"event": "rollback", "step": 19, "cause": "", "to_step": to_step, "samples": [first, last]}


def test_a_committed_checkpoint_that_is_not_found_is_no_fresh_start(corpus: Path, tmp_path: Path) -> None:
    """Whatever made it vanish: an unmounted folder, a wrong URL, rm."""
    folder = RunFolder(tmp_path / "run")
    write_logs(folder, START, committed(8), committed(16))
    config = run_config(corpus, folder.root)
    refused(
        r"run/checkpoints: no checkpoint found, but .*events\.jsonl says that step 16 was committed and "
        r".*metrics\.jsonl has steps up to 20: mount or restore it, .*checkpoint\.restart_from_zero=true",
        config,
    )
    refused("no checkpoint found", run_config(corpus, folder.root, f"checkpoint.folder={tmp_path}/unmounted"))
    prepare_run(run_config(corpus, folder.root, "checkpoint.restart_from_zero=true"), 1)
    write_logs(folder, START, committed(16, "near 1"))
    refused(r"step 16 was committed \(near 1\)", config)
    commit(tmp_path / "other", corpus)
    weights = f"checkpoint.load_weights_from={tmp_path}/other/checkpoints/step-00000003"
    refused("no checkpoint found", run_config(corpus, folder.root, weights))
    # Nor one whose events are gone, for nobody knows what was committed.
    folder.events.unlink()
    refused(r"events\.jsonl does not say whether one was committed", config)


def test_a_run_without_a_commit_begins_anew_and_says_so(corpus: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert fresh_start(read_progress(folder)) == ""
    write_logs(folder, START, {"event": "save", "step": 4, "cause": ""}, steps=5)
    prepare_run(run_config(corpus, folder.root), 1)
    assert fresh_start(read_progress(folder)) == (
        "steps up to 5 are logged, no checkpoint was ever committed: beginning at step 0"
    )
    # What was committed before a start from zero on purpose is of another time line.
    write_logs(folder, START, committed(16), {**START, "attempt": 2}, steps=16)
    assert read_progress(folder).committed == 0


def test_an_older_checkpoint_than_the_newest_committed_is_said(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_logs(folder, START, committed(8), committed(12, "near 1"))
    assert newer_lost(read_progress(folder), 12) is None
    text = "the checkpoint of step 12 was committed (near 1) but is not found: resuming from step 8"
    assert newer_lost(read_progress(folder), 8) == text
    resumed = {"event": "resume", "step": 8, "cause": "", "attempt": 2}
    write_logs(folder, START, committed(8), committed(12), resumed)
    assert newer_lost(read_progress(folder), 8) is None, "said once"
    write_logs(folder, START, committed(8), committed(12), rolled_back(8, 40, 50))
    assert newer_lost(read_progress(folder), 8) is None, "removed by the rollback"
    odd = ({"event": "commit", "step": "x"}, {"event": "rollback", "to_step": None}, {"event": 5}, {})
    write_logs(folder, START, committed(8), *odd)
    assert read_progress(folder).committed == 8


def test_samples_that_a_rollback_left_out_are_not_taken_without_its_record(
    corpus: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    commit(folder.root, corpus)
    write_logs(folder, START, committed(3), rolled_back(3, 40, 50))
    config = run_config(corpus, folder.root)
    refused(
        r"skipped\.json: absent, but .* a rollback to step 3 .* samples 40 to 49: restore the file", config
    )
    require_left_out(folder, read_progress(folder), (), ((30, 60),))  # the checkpoint itself leaves them out
    write_records(folder, (LeftOut(40, 50, 19, 3),))
    prepare_run(config, 1)
    write_records(folder, ())
    prepare_run(config, 1)


def lose_and_resume(rank: int, corpus: str, root: str) -> list[str]:
    """A run that is resumed otherwise, then without its checkpoints, then from zero on purpose."""
    folder = Path(root)
    config = run_config(Path(corpus), folder, "train.stop_after=4")
    longer = run_config(Path(corpus), folder, "train.steps=20", "train.stop_after=8", "optimizer.beta2=0.99")
    anew = run_config(Path(corpus), folder, "checkpoint.restart_from_zero=true", "train.stop_after=2")

    def plays() -> Any:
        yield Play(config)
        yield Play(longer)
        shutil.rmtree(folder / "checkpoints")
        yield Play(longer)
        yield Play(anew)

    return play_runs(rank, _Lazy(plays(), config))  # type: ignore[arg-type]


class _Lazy:
    """Plays that are made one after the other, so that something may happen in between."""

    def __init__(self, plays: Any, config: Any) -> None:
        self._plays, self._first = plays, Play(config)

    def __getitem__(self, number: int) -> Play:
        return self._first

    def __iter__(self) -> Any:
        return self._plays


def test_a_run_says_what_changed_and_that_its_checkpoints_are_gone(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (ends,) = run_ranks(lose_and_resume, 1, str(corpus), str(folder))
    assert ends[0] == ends[1] == ends[3] == "asked"
    assert ends[2].startswith(f"UserError: {folder}/checkpoints: no checkpoint found, but ")
    (change,) = events(folder, "change")
    assert change["step"] == 4 and change["cause"].startswith("learning rate ")
    assert change["cause"].endswith("(train.steps 10 → 20); optimizer.beta2 0.95 → 0.99")
    assert set(change["numbers"]) == {"train.steps", "optimizer.beta2"} and change["summation"] == {}
    first, again = events(folder, "start")
    assert first["cause"] == "" and first["passes"].keys() == {"prose", "verse"}
    assert again["cause"] == (
        "checkpoint.restart_from_zero: steps up to 8 are logged, step 8 was committed and is not found: "
        "beginning at step 0"
    )
