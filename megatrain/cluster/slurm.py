"""Handing a run to SLURM: the batch script filled in, checked and queued.

The script is slurm/pretrain.sbatch itself, with other values in the lines that a user would edit. What the
user wrote (overrides, paths) reaches sbatch as arguments, never through a shell.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import megatrain
from megatrain.config import Config
from megatrain.durable import write_durably
from megatrain.errors import UserError, require
from megatrain.state import RunFolder

ROOT = Path(megatrain.__file__).parents[1]
TEMPLATE = ROOT / "slurm" / "pretrain.sbatch"
PROGRAM = ROOT / "launch" / "pretrain.py"
MEANT_FOR_GPUS = 8
"""Cores for each rank where there are GPUs and nothing else is said."""
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+,-]*")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of SLURM. `create` makes one and checks it."""

    nodes: int
    time: str
    """Of one stretch, as sbatch writes it."""
    ranks_per_node: int
    gpus_per_node: int | None
    cpus_per_rank: int
    partition: str | None
    account: str | None
    signal_before_s: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @staticmethod
    def create(
        config: Config,
        *,
        nodes: int,
        time: str,
        ranks_per_node: int | None = None,
        gpus_per_node: int | None = None,
        cpus_per_rank: int | None = None,
        partition: str | None = None,
        account: str | None = None,
        signal_before_s: int = 300,
    ) -> Request:
        """Raises UserError for what SLURM would refuse, or what would end the job before it has saved."""
        given = [n for n in (gpus_per_node, ranks_per_node, config.cluster.processes) if n is not None]
        if not given:
            raise UserError(
                "say --gpus-per-node, or --ranks-per-node (or cluster.processes) where there is no GPU"
            )
        ranks = given[0]
        usual = MEANT_FOR_GPUS if gpus_per_node else config.train.threads or 1
        cpus = usual if cpus_per_rank is None else cpus_per_rank
        for option, number in (("--nodes", nodes), ("ranks on each node", ranks), ("--cpus-per-rank", cpus)):
            require(number >= 1, f"{option} ({number}) must be at least 1")
        for option, name in (("--partition", partition), ("--account", account)):
            require(name is None or NAME.fullmatch(name), f"{option} ({name}) is no name that SLURM knows")
        limit_s = seconds(time)
        require(
            0 < signal_before_s < min(limit_s, 65536),
            f"--signal-before ({signal_before_s} s) must be above 0, below --time ({time}) and below 65536: "
            "so long before the limit the ranks are told to save",
        )
        return Request(
            nodes=nodes,
            time=time,
            ranks_per_node=ranks,
            gpus_per_node=gpus_per_node,
            cpus_per_rank=cpus,
            partition=partition,
            account=account,
            signal_before_s=signal_before_s,
        )


@dataclass(frozen=True)
class Job:
    """Ready to be queued."""

    script: str
    script_file: Path
    """Where it will lie, beside the run."""
    command: tuple[str, ...]
    """That queues it."""
    output: str
    """Of the batch script and the ranks; `%j` stands for the job's number."""

    def output_of(self, number: str) -> str:
        return self.output.replace("%j", number).replace("%%", "%")


def seconds(time: str) -> int:
    """A limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises UserError."""
    match = TIME.fullmatch(time)
    require(
        match,
        f"--time ({time}) is no time; write minutes, hours:minutes:seconds or days-hours, like 24:00:00",
    )
    assert match is not None
    days, *parts = (int(part) if part is not None else None for part in match.groups())
    given = [part for part in parts if part is not None]
    if days is not None:
        hours, minutes, rest = [*given, 0, 0][:3]
    elif len(given) == 3:
        hours, minutes, rest = given
    else:
        hours, (minutes, rest) = 0, [*given, 0][:2]
    return ((((days or 0) * 24) + hours) * 60 + minutes) * 60 + rest


def plan_job(config: Config, config_path: Path, overrides: Sequence[str], request: Request) -> Job:
    """The batch script, filled, and the command that queues it. Pure."""
    signals = config.resilience.signals
    require(
        "SIGUSR1" in signals,
        f"resilience.signals ({', '.join(signals)}) must have SIGUSR1: SLURM sends it "
        "before the time is over",
    )
    folder = RunFolder(Path(config.run.folder).absolute())
    options = {
        "job-name": config.run.name,
        "signal": f"USR1@{request.signal_before_s}",
        "nodes": request.nodes,
        "ntasks-per-node": request.ranks_per_node,
        "gpus-per-node": request.gpus_per_node,
        "cpus-per-task": request.cpus_per_rank,
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
    }
    values = {"config": str(config_path.absolute()), "python": sys.executable, "program": str(PROGRAM)}
    script = fill(TEMPLATE.read_text(encoding="utf-8"), options, values)
    script_file = folder.root / "slurm.sbatch"
    # In the name of a file, sbatch reads %j and the like.
    output = f"{str(folder.logs).replace('%', '%%')}/slurm-%j.out"
    command = ("sbatch", "--parsable", f"--output={output}", str(script_file), *overrides)
    return Job(script, script_file, command, output)


def fill(template: str, options: Mapping[str, object], values: Mapping[str, str]) -> str:
    """The script with these options in its #SBATCH lines (None: without it) and these values assigned."""
    lines, told = [], set[str]()
    for line in template.splitlines():
        if line.startswith("#SBATCH "):
            words = []
            for word in line.split()[1:]:
                name = word.removeprefix("--").partition("=")[0]
                told.add(name)
                if name not in options:
                    words.append(word)
                elif options[name] is not None:
                    words.append(f"--{name}={options[name]}")
            line = " ".join(["#SBATCH", *words])
        name = line.partition("=")[0]
        if name in values:
            line = f"{name}={shlex.quote(values[name])}"
        lines.append(line)
    more = [f"#SBATCH --{name}={value}" for name, value in options.items() if value and name not in told]
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    return "\n".join([*lines[: last + 1], *more, *lines[last + 1 :], ""])


def queue(job: Job) -> str:
    """Write the script beside the run and give it to sbatch; the job's number.

    Raises UserError in sbatch's words.
    """
    require(
        shutil.which("sbatch"),
        "sbatch: no such program here; submit on a login node of the cluster, or look at the script with "
        "--dry-run",
    )
    RunFolder(job.script_file.parent).logs.mkdir(parents=True, exist_ok=True)
    write_durably(job.script_file, job.script.encode())
    done = subprocess.run(job.command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    said = " ".join(done.stderr.split())
    require(done.returncode == 0, f"sbatch refused the job: {said or f'it ended with {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]  # number;cluster
