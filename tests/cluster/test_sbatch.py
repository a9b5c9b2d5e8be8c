"""The batch script without SLURM: `srun` and `scontrol` are small programs that do what it needs of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatrain.train.ranks import world_from_environment
from tests.distributed.corpus import BASE, curve, events, saved_steps
from tests.distributed.corpus import corpus as corpus  # a fixture

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "slurm" / "pretrain.sbatch"
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) echo 127.0.0.1; echo other-node ;;
    requeue) echo "$2" >>"$BED/requeued" ;;
esac
"""
# Starts two tasks as srun does, gives them USR1 when asked to, and ends with the highest code.
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do echo "$1" >>"$BED/srun-options"; shift; done
unset RANK WORLD_SIZE LOCAL_RANK
pids=()
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!); done
if [ -n "${SIGNAL_WHEN:-}" ]; then
    until [ -s "$SIGNAL_WHEN" ]; do sleep 0.1; kill -0 "${pids[0]}" || break; done
    kill -USR1 "${pids[@]}"
fi
highest=0
for pid in "${pids[@]}"; do wait "$pid"; code=$?; [ "$code" -le "$highest" ] || highest=$code; done
exit "$highest"
"""
SCANCEL = """#!/usr/bin/env bash
echo "$*" >>"$BED/cancelled"
"""
PYTHON = """#!/usr/bin/env bash
[ "$1" = -c ] ||
    printf '%s\\n' "$MASTER_ADDR:$MASTER_PORT $LOCAL_WORLD_SIZE $OMP_NUM_THREADS $*" >>"$BED/calls"
case "$1" in
    -c) echo "$BED/run"; exit ;;
    -m) exit "${CHECK_CODE:-0}" ;;
esac
if [ -n "${COMMITS:-}" ]; then echo '{"event": "commit", "step": 1}' >>"$BED/run/events.jsonl"; fi
exit "${RANK_CODE:-0}"
"""


class Bed:
    """A folder with the programs, and the variables of a job of two tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in {"scontrol": SCONTROL, "scancel": SCANCEL, "srun": SRUN, "python": PYTHON}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def submit(self, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
        job = {
            "BED": self.folder,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHON": self.folder / "python",
            "CONFIG": "a config.yaml",
            "SLURM_SUBMIT_DIR": REPOSITORY,
            "SLURM_JOB_ID": 41234,
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": 1,
            "SLURM_NTASKS": 2,
            "SLURM_CPUS_PER_TASK": 1,
        }
        environment = {**os.environ, **{name: str(value) for name, value in {**job, **variables}.items()}}
        environment.pop("OMP_NUM_THREADS", None)
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=1800
        )

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


@pytest.mark.parametrize("code", [75, 138, 143])
def test_saved_or_not_begun_goes_back_into_the_queue(code: int, bed: Bed) -> None:
    assert bed.submit(RANK_CODE=code).returncode == 0
    assert bed.lines("requeued") == ["41234"]


@pytest.mark.parametrize("code", [0, 2, 76])
def test_done_wrong_or_given_up_ends_the_job(code: int, bed: Bed) -> None:
    assert bed.submit(RANK_CODE=code).returncode == code
    assert bed.lines("requeued") == []


@pytest.mark.parametrize("code", [1, 137])
def test_failed_ranks_start_again_until_no_start_helps(code: int, bed: Bed) -> None:
    for _ in range(2):
        assert bed.submit(RANK_CODE=code).returncode == 0
    assert bed.submit(RANK_CODE=code, COMMITS=1).returncode == 0, "a new checkpoint: counted anew"
    assert bed.submit(RANK_CODE=code).returncode == 0
    assert bed.submit(RANK_CODE=code).returncode == 76
    assert bed.lines("requeued") == ["41234"] * 4


@pytest.mark.parametrize(("code", "ends"), [(75, False), (1, False), (0, True), (2, True), (76, True)])
def test_in_a_chain_the_followers_go_on_or_end_with_it(code: int, ends: bool, bed: Bed) -> None:
    assert bed.submit(RANK_CODE=code, MEGATRAIN_CHAIN="chain-7").returncode == code
    assert bed.lines("requeued") == []
    assert bed.lines("cancelled") == (["--state=PENDING --name=chain-7"] if ends else [])


def test_it_gives_up(bed: Bed) -> None:
    assert bed.submit(RANK_CODE=75, MAX_RESTARTS=3, SLURM_RESTART_COUNT=2).returncode == 0
    assert bed.submit(RANK_CODE=75, MAX_RESTARTS=3, SLURM_RESTART_COUNT=3).returncode == 76
    assert bed.lines("requeued") == ["41234"]


def test_what_the_ranks_are_told(bed: Bed) -> None:
    bed.submit("train.steps=3", "run.name=a b")
    check, *ranks = bed.lines("calls")
    told = "127.0.0.1:21234 2 1"
    overrides = "train.steps=3 run.name=a b"
    assert check == f"{told} -m megatrain check a config.yaml --ranks 2 {overrides}"
    assert ranks == [f"{told} launch/pretrain.py --config a config.yaml train.threads=1 {overrides}"] * 2
    assert "--kill-on-bad-exit=0" in bed.lines("srun-options")
    bed.submit(SLURM_RESTART_COUNT=1)
    assert len(bed.lines("calls")) == 5, "a restart is not checked again"


def test_a_bad_config_starts_no_rank(bed: Bed) -> None:
    assert bed.submit(CHECK_CODE=2).returncode == 2
    assert len(bed.lines("calls")) == 1


@pytest.mark.parametrize(
    "script", sorted((REPOSITORY / "slurm").glob("*.sbatch")), ids=lambda path: path.name
)
def test_directives_stand_before_the_first_command(script: Path) -> None:
    """sbatch reads none after it."""
    lines = script.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [number for number, line in enumerate(lines) if re.match(r"#\s*SBATCH", line)]
    assert directives and max(directives) < first
    assert all("#" not in lines[number][1:] for number in directives)


def test_a_rank_reads_the_variables_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # so that what the function sets is taken back
    assert world_from_environment() == (5, 8, 1)
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["5", "8", "1"]


@pytest.mark.timeout(2400)
def test_a_run_signalled_goes_on_at_the_next_start(bed: Bed, corpus: Path) -> None:
    """Two real ranks, with SLURM's variables alone."""
    run = bed.folder / "run"
    tree = yaml.safe_load(BASE)
    tree["data"]["sources"] = [{"path": str(corpus)}]
    tree["train"]["steps"] = 400
    tree["checkpoint"] = {"every": 1000}
    tree["run"] = {"folder": str(run)}
    config = bed.folder / "config.yaml"
    config.write_text(yaml.safe_dump(tree))
    job = {
        "PYTHON": sys.executable,
        "CONFIG": config,
        "SLURM_JOB_ID": 40_000 + os.getpid() % 10_000,
    }
    # SLURM restarts a job with the same number; the port follows from it.
    first = bed.submit(SIGNAL_WHEN=run / "metrics.jsonl", **job)
    assert first.returncode == 0 and len(bed.lines("requeued")) == 1, first.stdout + first.stderr
    (step,) = saved_steps(run)
    assert 0 < step < 400 and events(run, "preempt")
    second = bed.submit(SLURM_RESTART_COUNT=1, **job)
    assert second.returncode == 0 and len(bed.lines("requeued")) == 1, second.stdout + second.stderr
    assert [event["step"] for event in events(run, "resume")] == [step]
    assert list(curve(run)) == list(range(1, 401))
