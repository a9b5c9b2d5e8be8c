"""`megatrain verify-resume`: the comparison finds every difference, and the command says what it found."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from megatrain.checkpoint.manifest import read_manifest, write_manifest
from megatrain.checkpoint.place import LocalPlace
from megatrain.cli.main import main
from megatrain.cluster import launchers, rehearsal
from megatrain.cluster.comparison import Comparison, Told, Trace, compare
from megatrain.cluster.rehearsal import Layout, Outcome, parse_layout, table
from megatrain.cluster.scratch import claimed
from megatrain.cluster.supervisor import End
from megatrain.errors import UserError
from megatrain.observe.samples import SampleLog, read_samples
from megatrain.state import RunFolder, RunState
from tests.cluster.launched import processes_with
from tests.distributed.corpus import BASE, curve, events, saved_steps
from tests.distributed.corpus import corpus as corpus  # a fixture

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 600

# --- the comparison ---

STEPS, SAVED = 5, 2
TOLERANCE = 1e-5


def told(step: int, attempt: int) -> Told:
    """Two ranks, batches of four."""
    first = 4 * (step - 1)
    numbers: dict[str, float | None] = {
        "loss": 5.0 - 0.1 * step,
        "grad_norm": 1.0 / step,
        "lr": 1e-3 * step,
        "consumed_samples": 4 * step,
        "consumed_tokens": 100 * step,
        "skipped": False,
    }
    return Told(attempt, numbers, ((first, first + 1), (first + 2, first + 3)))


def trace(resumed_at: int | None = None) -> Trace:
    attempts = {step: 1 if resumed_at is None or step <= resumed_at else 2 for step in range(1, STEPS + 1)}
    return Trace({step: told(step, attempt) for step, attempt in attempts.items()}, ("a1", "b2"))


def with_step(step: int, samples: Any = None, **numbers: float | None) -> Trace:
    """The resumed run, with one step changed."""
    found = trace(SAVED)
    changed = found.steps[step]
    changed = replace(
        changed,
        numbers={**changed.numbers, **numbers},
        samples=changed.samples if samples is None else samples,
    )
    return replace(found, steps={**found.steps, step: changed})


def without(step: int) -> Trace:
    found = trace(SAVED)
    return replace(found, steps={other: told for other, told in found.steps.items() if other != step})


def compared(resumed: Trace, tolerance: float | None = None) -> Comparison:
    return compare(trace(), resumed, steps=STEPS, checkpoint=SAVED, tolerance=tolerance)


def test_equal_runs_are_equal() -> None:
    for tolerance in (None, TOLERANCE):
        found = compared(trace(SAVED), tolerance)
        assert found == Comparison(STEPS, SAVED, True, {"loss": 0.0, "grad_norm": 0.0}, None)


LOSS, NORM, RATE = 5.0 - 0.1 * 4, 1.0 / 4, 1e-3 * 4
ANYWHERE = {
    "another sample": (
        with_step(4, ((12, 13), (14, 16))),
        "step 4: sample 4 of the batch is 15 unbroken and 16",
    ),
    "a sample lost": (
        with_step(4, ((12, 13), (14,))),
        "sample 4 of the batch is 15 unbroken and absent resumed",
    ),
    "a sample doubled": (with_step(4, ((12, 13), (14, 15, 15))), "sample 5 of the batch is absent unbroken"),
    "learning rate": (
        with_step(4, lr=math.nextafter(RATE, 1)),
        f"step 4: lr is {RATE} unbroken and 0.0040000",
    ),
    "samples counted": (with_step(4, consumed_samples=17), "step 4: consumed_samples is 16 unbroken and 17"),
    "tokens counted": (with_step(4, consumed_tokens=401), "step 4: consumed_tokens is 400 unbroken and 401"),
    "a skipped step": (with_step(4, skipped=True), "step 4: skipped is False unbroken and True resumed"),
    "loss": (with_step(4, loss=LOSS * (1 + 2e-5)), "step 4: loss is 4.6 unbroken and 4.60009"),
    "gradient norm": (
        with_step(4, grad_norm=NORM * (1 - 2e-5)),
        "step 4: grad_norm is 0.25 unbroken and 0.24",
    ),
    "a loss that is not finite": (with_step(4, loss=None), "loss is 4.6 unbroken and None resumed .*inf"),
    "a step that is not there": (without(4), "step 4: the step is there unbroken and absent resumed"),
    "a fresh start": (replace(trace(0)), "step 2: the resumed step is 2 unbroken and 0 resumed"),
    "an older checkpoint": (trace(1), "step 2: the resumed step is 2 unbroken and 1 resumed"),
    "another start": (
        with_step(1, loss=4.0),
        "step 1: loss .*; before the checkpoint: two equal starts differ",
    ),
}
ON_THE_SAME_LAYOUT = {
    "the last bit of the loss": (with_step(4, loss=math.nextafter(LOSS, 9)), "step 4: loss .* bit for bit"),
    "of the norm": (with_step(4, grad_norm=math.nextafter(NORM, 9)), "step 4: grad_norm .* bit for bit"),
    "other ranks": (with_step(4, ((14, 15), (12, 13))), "sample 1 of the batch is 12 unbroken and 14"),
    "weights": (
        replace(trace(SAVED), stored=("a1", "c3")),
        "step 5: the hash of weights and moments is a1 b2",
    ),
}


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("tolerance", [None, TOLERANCE])
def test_a_difference_is_found_on_every_layout(name: str, tolerance: float | None) -> None:
    resumed, message = ANYWHERE[name]
    found = compared(resumed, tolerance)
    assert_says(found, message)
    assert found.samples_equal == ("sample " not in str(found.first) and name != "a step that is not there")


@pytest.mark.parametrize("name", ON_THE_SAME_LAYOUT)
def test_bits_count_on_the_same_layout_alone(name: str) -> None:
    resumed, message = ON_THE_SAME_LAYOUT[name]
    assert_says(compared(resumed), message)
    assert compared(resumed, TOLERANCE).first is None


def assert_says(found: Comparison, message: str) -> None:
    assert re.search(message, str(found.first)), found.first


def test_the_first_of_several_differences_is_told_and_the_largest_counted() -> None:
    resumed = with_step(5, loss=4.5 * 1.5)
    resumed = replace(resumed, steps={**resumed.steps, 3: with_step(3, loss=4.7 * 1.25).steps[3]})
    found = compared(resumed, TOLERANCE)
    assert found.first is not None and found.first.step == 3
    assert found.largest == pytest.approx({"loss": 1 - 1 / 1.5, "grad_norm": 0.0})


def test_samples_that_neither_run_told_are_a_difference() -> None:
    """Else a log that was never written would prove that it is equal."""
    silent = replace(
        trace(SAVED), steps={step: replace(told, samples=()) for step, told in trace(2).steps.items()}
    )
    found = compare(silent, silent, steps=STEPS, checkpoint=SAVED, tolerance=None)
    assert "sample 1 of the batch is absent unbroken and absent resumed" in str(found.first)
    assert not found.samples_equal


# --- what it is made from ---


def test_samples_are_read_back_by_step_without_padding(tmp_path: Path) -> None:
    """Of the last attempt at each step: what a rank of another layout wrote before is undone."""
    folder = RunFolder(tmp_path)

    def write(rank: int, attempt: int, lines: Mapping[int, list[int]]) -> None:
        log = SampleLog(folder.samples(rank))
        for step, ids in lines.items():
            state = RunState(seed=1, data_fingerprint="f", step=step, attempt=attempt)
            log.step(state, np.array(ids))
        log.close()

    write(0, 1, {1: [0, 1], 2: [4, 5], 3: [8, 9]})
    write(1, 1, {1: [2, -1], 2: [6, -1], 3: [10, -1]})
    with folder.samples(1).open("ab") as file:
        file.write(b'{"step":4,"ids":[')  # torn by a kill
    write(0, 2, {2: [4, 5, 6], 3: [8, 9, 10]})
    assert read_samples(folder) == {1: ((0, 1), (2,)), 2: ((4, 5, 6),), 3: ((8, 9, 10),)}
    SampleLog(None).step(RunState(seed=1, data_fingerprint="f"), np.array([1]))


def test_layouts_are_read_and_written_alike() -> None:
    assert parse_layout("tp2-dp12-zero3") == Layout(2, 12, 3)
    assert str(Layout(2, 12, 3)) == "tp2-dp12-zero3" and Layout(2, 12, 3).world == 24
    for text in ("", "tp0-dp1-zero1", "tp1-dp1", "dp1-tp1-zero1", "tp1-dp1-zero1 ", "tp1-dp1-zero11"):
        with pytest.raises(UserError, match="is not of the form"):
            parse_layout(text)


def test_more_ranks_than_this_machine_can_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "cores", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    launchers.require_ranks_fit(16, "layout x")
    with pytest.raises(
        UserError, match=r"layout tp64-dp1000-zero1 takes 64,000 ranks, .* runs 16 at most"
    ) as told:
        launchers.require_ranks_fit(Layout(64, 1000, 1).world, f"layout {Layout(64, 1000, 1)}")
    assert "\n" not in str(told.value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    with pytest.raises(UserError, match="takes 9 ranks, but this machine has 8 GPUs"):
        launchers.require_ranks_fit(9, "the run")


def test_the_table_has_a_line_a_layout() -> None:
    good = compared(trace(SAVED))
    bad = compared(with_step(4, ((12, 13), (14, 16)), loss=4.0), TOLERANCE)
    text = table([Outcome(Layout(1, 2, 1), good, None, 3.21), Outcome(Layout(2, 4, 3), bad, TOLERANCE, 45.6)])
    head, first, second = text.splitlines()
    assert head.split("  ")[0] == "layout"
    assert " ".join(first.split()) == "tp1-dp2-zero1 2 5 2 equal 0 0 3.2 equal bit for bit"
    assert " ".join(second.split()) == "tp2-dp4-zero3 8 5 2 DIFFER 1.3e-01 0 45.6 DIFFERS"


def test_one_rehearsal_at_a_time_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with claimed(folder, keep=False):
        (folder / "old").mkdir()
        with pytest.raises(UserError, match="in use by another rehearsal"), claimed(folder, keep=False):
            pass
        assert (folder / "old").exists()
    with claimed(folder, keep=True):
        assert not (folder / "old").exists()
    with pytest.raises(KeyboardInterrupt), claimed(folder, keep=False):
        raise KeyboardInterrupt
    assert not folder.exists()


# --- the command ---


@dataclass(frozen=True)
class Home:
    """A folder with a config, and what the command left there when it was told to keep its runs."""

    folder: Path
    kept: Path
    said: str
    code: int


def write_config(folder: Path, corpus: Path) -> None:
    tree = yaml.safe_load(BASE)
    tree["model"]["kv_heads"] = 2
    tree["data"]["sources"] = [{"path": str(corpus)}]
    tree["run"] = {"folder": "a run"}
    tree["train"] |= {"steps": 40}
    tree["cluster"] = {"processes": 2}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))


COMMAND = ("verify-resume", "config.yaml", "--layouts", "tp2-dp1-zero3", "--before", "3", "--after", "3")


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "megatrain", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("rehearsal") / "with a space"
    folder.mkdir()
    write_config(folder, corpus)
    process = start(folder, *COMMAND, "--keep")
    said = process.communicate(timeout=PATIENCE_S)[0].decode()
    return Home(folder, folder / "a run-verify-resume", said, process.returncode)


@pytest.mark.timeout(PATIENCE_S + 100)
def test_a_run_that_resumes(home: Home) -> None:
    assert home.code == 0, home.said
    head, *rows = home.said.splitlines()[-3:]
    assert head.split()[:2] == ["layout", "ranks"]
    assert rows[0].split()[:5] == ["tp1-dp2-zero1", "2", "6", "3", "equal"]
    assert rows[0].split()[5:7] == ["0", "0"] and rows[0].endswith("equal bit for bit")
    assert rows[1].split()[:5] == ["tp2-dp1-zero3", "2", "6", "3", "equal"]
    assert rows[1].endswith("equal within 1e-05")
    assert "step 6/6" in home.said
    assert not (home.folder / "a run").exists(), "the user's own run is not touched"

    kept = home.kept
    assert list(curve(kept / "unbroken")) == [1, 2, 3, 4, 5, 6] and saved_steps(kept / "unbroken") == [6]
    lost = list(curve(kept / "killed"))
    assert lost[:4] == [1, 2, 3, 4] and lost[-1] < 6 and saved_steps(kept / "killed") == [3]
    assert {step: len(ranks) for step, ranks in read_samples(RunFolder(kept / "killed")).items()}[4] == 2
    for layout in ("tp1-dp2-zero1", "tp2-dp1-zero3"):
        run = kept / f"resumed-{layout}"
        assert [event["step"] for event in events(run, "resume")] == [3]
        assert list(curve(run)) == [1, 2, 3, 4, 5, 6]
    samples = read_samples(RunFolder(kept / "resumed-tp2-dp1-zero3"))
    assert [len(samples[step]) for step in (3, 4)] == [2, 1], (
        "tensor-parallel neighbours read the same samples"
    )
    assert [sorted(sum(samples[step], ())) for step in samples] == [
        list(range(5 * step - 5, 5 * step)) for step in range(1, 7)
    ]
    rates = [record[2] for record in curve(kept / "unbroken").values()]
    config = yaml.safe_load((kept / "unbroken" / "config.yaml").read_text())
    assert config["train"]["steps"] == 40 and rates[5] > 0.9 * max(rates), "the schedule is the user's"


Launch = Callable[..., End]


@pytest.fixture
def replay(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Launch], None]:
    """The runs end as they did in the first rehearsal; of the resumed ones a test decides."""
    kept = home.kept
    shutil.copy(home.folder / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)

    def begin(resumed: Launch) -> None:
        def launch(config: Any, *args: Any, **options: Any) -> End:
            run = Path(config.run.folder)
            if run.name.startswith("resumed"):
                return resumed(config, *args, **options)
            shutil.copytree(kept / run.name, run)
            return End(None if run.name == "killed" else 0, False, "killed")

        monkeypatch.setattr(rehearsal, "launch", launch)

    return begin


def as_kept(home: Home) -> Launch:
    def launch(config: Any, *args: Any, **options: Any) -> End:
        run = Path(config.run.folder)
        shutil.rmtree(run)
        shutil.copytree(home.kept / run.name, run)
        return End(0, False, "")

    return launch


def test_nothing_stays_when_all_agree(home: Home, replay: Callable[[Launch], None], tmp_path: Path) -> None:
    replay(as_kept(home))
    assert main(COMMAND) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_difference_on_another_layout_is_told(
    home: Home, replay: Callable[[Launch], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss in the last line of one metrics file, moved by a thousandth."""

    def launch(config: Any, *args: Any, **options: Any) -> End:
        as_kept(home)(config)
        run = RunFolder(Path(config.run.folder))
        if "zero3" in run.root.name:
            lines = run.metrics.read_text().splitlines()
            last = json.loads(lines[-1])
            lines[-1] = json.dumps({**last, "loss": last["loss"] * 1.001})
            run.metrics.write_text("\n".join(lines) + "\n")
        return End(0, False, "")

    replay(launch)
    assert main(COMMAND) == 1
    said = capsys.readouterr()
    assert [row.split()[-1] for row in said.out.splitlines()[-2:]] == ["bit", "DIFFERS"]
    assert said.err.splitlines()[-1].startswith("megatrain: tp2-dp1-zero3: step 6: loss is ")
    assert said.err.splitlines()[-1].endswith("the runs are in a run-verify-resume")
    kept = {path.name for path in (tmp_path / "a run-verify-resume").iterdir() if path.is_dir()}
    assert kept == {"unbroken", "killed", "resumed-tp2-dp1-zero3"}, "what differs can be looked into"


@pytest.mark.timeout(PATIENCE_S + 100)
def test_a_checkpoint_with_a_wrong_position_is_found_by_a_real_resume(
    replay: Callable[[Launch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else of the checkpoint is right: the run goes on, on the wrong samples."""
    from megatrain.cluster.supervisor import launch as real

    def launch(config: Any, *args: Any, **options: Any) -> End:
        place = LocalPlace(Path(config.run.folder, "checkpoints"))
        manifest = read_manifest(place, "step-00000003")
        assert manifest.state.consumed_samples == 15
        state = replace(manifest.state, consumed_samples=16)
        write_manifest(place, "step-00000003", replace(manifest, state=state))
        return real(config, *args, **options)

    replay(launch)
    words = [word for word in COMMAND if word not in ("--layouts", "tp2-dp1-zero3")]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].split()[:5] == ["tp1-dp2-zero1", "2", "6", "3", "DIFFER"]
    assert "step 4: sample 1 of the batch is 15 unbroken and 16 resumed" in said.err.splitlines()[-1]


def test_a_run_that_fails_is_named_with_its_own_words(
    replay: Callable[[Launch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(config: Any, *args: Any, output: Any, **options: Any) -> End:
        output.write(b"megatrain: no space left\n")
        return End(1, False, "")

    replay(launch)
    assert main(COMMAND) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        "megatrain: the resumed-tp1-dp2-zero1 run ended with exit code 1: no space left; see "
    )


@pytest.mark.timeout(PATIENCE_S + 100)
def test_ctrl_c_ends_it_and_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    write_config(tmp_path, corpus)
    many = ("--before", "500000", "--after", "1", "train.steps=1000000")
    process = start(tmp_path, "verify-resume", "config.yaml", *many)
    work = tmp_path / "a run-verify-resume"
    config = str(work / "unbroken.yaml")
    deadline = time.monotonic() + PATIENCE_S
    while not (work / "unbroken" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(processes_with(config)) >= 3, "the launcher and two ranks"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE_S)[0].decode()
    assert process.returncode == 130 and said.endswith("megatrain: interrupted\n"), said
    while processes_with(config) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_with(config) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
