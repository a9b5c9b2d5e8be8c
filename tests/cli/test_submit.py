"""`megatrain submit` without SLURM: what it refuses, what it fills in, what it hands to sbatch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatrain.cli.main import main
from megatrain.cluster.slurm import fill, seconds
from megatrain.errors import UserError
from tests.cli.conftest import Call, Scene

REPOSITORY = Path(__file__).resolve().parents[2]
ASKED = ("--nodes", 2, "--ranks-per-node", 1, "--time", "1-12:30:00")
SPLIT = ("model.kv_heads=2", "parallel.tensor=2")
# Leaves a line for each of its arguments.
SBATCH = """#!/usr/bin/env bash
printf '%s\\n' "$@" >{folder}/arguments
echo "{error}" >&2
echo '123;cluster'
exit {code}
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first in PATH."""
    return put_sbatch(tmp_path, monkeypatch)


def put_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0, error: str = "") -> Path:
    program = folder / "bin" / "sbatch"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SBATCH.format(folder=shlex.quote(str(folder)), code=code, error=error))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return folder / "arguments"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nodes", 3, *ASKED[2:], *SPLIT), "parallel.tensor (2) must divide the number of ranks (3)"),
        ((*ASKED, "train.stepz=1"), "unknown key train.stepz"),
        ((*ASKED, "data.sources=[{path: nowhere}]"), "nowhere"),
        (("--nodes", 0, *ASKED[2:]), "--nodes (0) must be at least 1"),
        ((*ASKED[:4], "--time", "soon"), "--time (soon) is no time"),
        ((*ASKED[:4], "--time", "5"), "--signal-before (300 s) must be above 0, below --time (5)"),
        ((*ASKED, "--partition", "a b"), "--partition (a b) is no name"),
        ((*ASKED, "--account", "x\n#SBATCH"), "is no name"),
        ((*ASKED, "--gpus-per-node", 8), "not allowed with argument"),
        (("--nodes", 2, "--time", "1:0:0", "cluster.processes=null"), "say --gpus-per-node"),
    ],
)
def test_refused_before_anything_is_queued(
    words: tuple[object, ...], message: str, call: Call, scene: Scene, sbatch: Path
) -> None:
    before = scene.files()
    ended = call("submit", scene.config, *words)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert message in ended.err
    assert scene.files() == before and not sbatch.exists()


def test_the_signal_of_slurm_must_be_heard(scene: Scene, call: Call) -> None:
    words = ("submit", "config.yaml", "--nodes", "1", "--time", "10", "--ranks-per-node", "2", "--dry-run")
    ended = call(*words, "resilience.signals=[SIGTERM]")
    assert ended.code == 2 and "must have SIGUSR1: SLURM sends it" in ended.err


def test_dry_run_prints_and_writes_nothing(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    before = scene.files()
    options = ("--partition", "long", "--account", "us", "--signal-before", 120, "--dry-run")
    words = ("submit", scene.config, *ASKED, *options, "run.name=try", "run.folder=a $(run)")
    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert err == "" and scene.files() == before
    directives = [word for line in out.splitlines() if line[:8] == "#SBATCH " for word in line.split()[1:]]
    assert set(directives) >= {
        *("--job-name=try", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=1-12:30:00"),
        *("--signal=USR1@120", "--partition=long", "--account=us", "--requeue", "--open-mode=append"),
    }
    assert not any("gpus" in word for word in directives)
    command = shlex.split(out.splitlines()[-1])
    folder = scene.folder / "a $(run)"
    assert command == [
        *("#", "sbatch", "--parsable", f"--output={folder}/logs/slurm-%j.out", f"{folder}/slurm.sbatch"),
        *("run.name=try", "run.folder=a $(run)"),
    ]
    # What bash makes of it is what was meant.
    script = out.partition("set -uo pipefail")[0] + 'printf "%s\\n" "$config" "$python" "$program"'
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        *(str(scene.config), sys.executable, str(REPOSITORY / "launch" / "pretrain.py")),
    ]


def test_it_is_queued_with_the_arguments_as_they_were(
    scene: Scene, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["run.name=try", "run.folder=it's a %run", "train.steps=7"]
    assert main(["submit", str(scene.config), *map(str, ASKED), *overrides]) == 0
    run = scene.folder / "it's a %run"
    *_, output, script = sbatch.read_text().splitlines()[: -len(overrides)]
    assert sbatch.read_text().splitlines()[-3:] == overrides
    # In a name, sbatch takes a % for the beginning of a number.
    assert output == f"--output={scene.folder}/it's a %%run/logs/slurm-%j.out"
    assert Path(script) == run / "slurm.sbatch" and "#SBATCH --nodes=2" in Path(script).read_text()
    assert (run / "logs").is_dir()
    said = capsys.readouterr().out
    assert said.startswith("job 123: 2 nodes, 2 ranks, 1-12:30:00 a stretch\n")
    assert f"{run}/logs/slurm-123.out" in said and "scancel 123" in said


def test_without_sbatch_or_refused_by_it(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", str(scene.config), *map(str, ASKED)]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(
        "megatrain: sbatch: no such program here; submit on a login node"
    )
    assert not scene.run.exists()
    put_sbatch(tmp_path, monkeypatch, code=1, error="sbatch: error: invalid partition specified: long")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "refused the job: sbatch: error: invalid partition" in said


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-2", 93600), ("1-2:30", 95400), ("1-00:00:01", 86401)],
)
def test_a_limit_is_read_as_sbatch_reads_it(time: str, expected: int) -> None:
    """Formats of sbatch(1), --time."""
    assert seconds(time) == expected


@pytest.mark.parametrize("time", ["", "1d", "1:2:3:4", "-5", "24h", "1-"])
def test_a_limit_that_is_none(time: str) -> None:
    with pytest.raises(UserError, match="is no time"):
        seconds(time)


def test_what_is_not_asked_for_leaves_the_line() -> None:
    template = "#SBATCH --nodes=1 --gpus-per-node=8\n#SBATCH --exclusive\n\nconfig=a\nelse\n"
    filled = fill(template, {"nodes": 3, "gpus-per-node": None, "account": "us"}, {"config": "it's"})
    assert filled == (
        "#SBATCH --nodes=3\n#SBATCH --exclusive\n#SBATCH --account=us\n\nconfig='it'\"'\"'s'\nelse\n"
    )
