"""What a whole `megatrain prepare` takes, and how time and memory grow with the data.

    python tests/benchmarks/data_pipeline.py WEB.warc.gz ... [--shares 0.25 0.5 1] [--workers 2] [--rounds 1]
                                             [--json FILE]

Prepares the first files, then more, then all (`corpus.py` makes 16): other documents each, no copies.
FineWeb's list of steps, exact and near duplicates, a tokenizer trained on 5 MB, shards. By stage: wall
seconds, processor-seconds of all processes, and the largest process at its largest (VmHWM, set back at each
stage's end, so Linux alone). What bounds memory is set low enough to bound it at the smallest size:
`memory_mib` and `shards.max_tokens`. Each round does all sizes in turn; medians.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Little is imported here: what this process takes would count for those that it starts (getrusage(2)).
CONFIG = """
version: 2
memory_mib: 64
sources: {{web: {{files: {files}}}}}
steps:
  - extract: {{}}
  - clean: {{}}
  - length: {{min_characters: 20}}
  - language: {{}}
  - boilerplate: {{}}
  - gopher_repetition: {{}}
  - gopher_quality: {{}}
  - c4_quality: {{drop_curly_bracket: false}}
  - fineweb_quality: {{}}
  - pii: {{}}
duplicates: {{exact: true, near: {{preset: fineweb}}}}
tokenizer: {{vocab_size: 16_000, training_bytes: 5_000_000}}
shards: {{max_tokens: 2_000_000}}
"""
TRAINING = "train tokenizer"
TICKS = os.sysconf("SC_CLK_TCK")
_DONE = re.compile(r"(\w+), tasks: [\d,]+ in ([\d.]+) s")


@dataclass
class Stage:
    """What a stage, or all of a preparation, took."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mib: float = 0.0


@dataclass(frozen=True)
class Run:
    """One preparation: what it read and kept, and what each stage took, in order."""

    raw_mb: float
    text_mb: float
    documents: int
    tokens: int
    total: Stage
    stages: dict[str, Stage]


class Group:
    """The processes of a preparation: its own and its workers'."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def cpu_s(self) -> tuple[float, float]:
        """Seconds up to now of the leader, and of its workers, those that have ended too."""
        own, workers = 0.0, 0.0
        for pid in self._members():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # has just ended: its parent has its time
                continue
            user, system, waited_user, waited_system = (int(field) / TICKS for field in fields[11:15])
            workers += waited_user + waited_system
            if pid == self.leader:
                own += user + system
            else:
                workers += user + system
        return own, workers

    def peak_mib(self) -> float:
        """The largest process's most memory since this was asked last."""
        most = 0
        for pid in self._members():
            try:
                found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # sets VmHWM back (proc(5))
            except OSError:
                continue
            most = max(most, int(found[1]) if found else 0)
        return most / 1024

    def _members(self) -> list[int]:
        members = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(path.name)) == self.leader:
                    members.append(int(path.name))
            except ProcessLookupError:
                continue
        return members


def prepare(files: Sequence[Path], workers: int, room: Path) -> Run:
    """Prepare a dataset of the files in `room`. Raises CalledProcessError where that fails."""
    config = room / "config.yaml"
    config.write_text(CONFIG.format(files=json.dumps([str(file.resolve()) for file in files])))
    output = room / "data"
    command = [sys.executable, "-m", "data_tools.prepare", str(config), f"output={output}"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, f"where.workers={workers}"],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    stages = watch(process, Group(process.pid), began)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    total = Stage(
        time.perf_counter() - began,
        usage.ru_utime + usage.ru_stime,
        max(usage.ru_maxrss / 1024, *(stage.peak_mib for stage in stages.values())),
    )
    stages["start, end"] = Stage(
        total.wall_s - sum(stage.wall_s for stage in stages.values()),
        total.cpu_s - sum(stage.cpu_s for stage in stages.values()),
    )
    shards = [
        shard
        for path in output.glob("*/manifest.json")
        for shard in json.loads(path.read_text(encoding="utf-8"))["shards"]
    ]
    return Run(
        sum(raw_bytes(file) for file in files) / 1e6,
        sum(shard["text_bytes"] for shard in shards) / 1e6,
        sum(shard["documents"] for shard in shards),
        sum(shard["tokens"] for shard in shards),
        total,
        stages,
    )


def watch(process: subprocess.Popen[str], group: Group, began: float) -> dict[str, Stage]:
    """What each stage took, as the lines that the preparation writes at their ends tell.

    Nothing is written at the end of the tokenizer's training: it is what the main process takes before the
    next stage, whose wall time its own line tells. What the main process does before a stage counts for it.
    """
    stages: dict[str, Stage] = defaultdict(Stage)
    last, last_cpu = began, (0.0, 0.0)
    training = False
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("megatrain: "):
            sys.stderr.write(line)
        if line.startswith(TRAINING):
            training = True
            continue
        if not (found := _DONE.match(line)):
            continue
        now, cpu, stage = time.perf_counter(), group.cpu_s(), stages[found[1]]
        wall, own, workers = now - last, cpu[0] - last_cpu[0], cpu[1] - last_cpu[1]
        peak = group.peak_mib()
        if training:
            trained, training = stages[TRAINING], False
            trained.wall_s, trained.cpu_s = wall - float(found[2]), own
            wall, own = float(found[2]), 0.0
            trained.peak_mib = peak  # of both: which of them it was is not told
        stage.wall_s += wall
        stage.cpu_s += own + workers
        stage.peak_mib = max(stage.peak_mib, peak)
        last, last_cpu = now, cpu
    return dict(stages)


def raw_bytes(path: Path) -> int:
    """Of a file's records, uncompressed."""
    size = 0
    with gzip.open(path) as stream:
        while block := stream.read(1 << 20):
            size += len(block)
    return size


def middle(runs: Sequence[Run]) -> Run:
    """The medians of what several preparations of the same files took."""

    def of(found: Sequence[Stage]) -> Stage:
        columns = zip(*(asdict(stage).values() for stage in found), strict=True)
        return Stage(*map(statistics.median, columns))

    first = runs[0]
    stages = {name: of([run.stages[name] for run in runs]) for name in first.stages}
    return Run(
        first.raw_mb,
        first.text_mb,
        first.documents,
        first.tokens,
        of([run.total for run in runs]),
        stages,
    )


def print_tables(runs: Sequence[Run]) -> None:
    print(
        "| raw MB | documents kept | their MB | tokens | wall s | CPU s | raw MB a CPU s | peak MiB "
        "| CPU, of the first | data, of the first |\n|" + "---:|" * 10
    )
    first = runs[0]
    for run in runs:
        total = run.total
        cells = [f"{run.raw_mb:.0f}", f"{run.documents:,}", f"{run.text_mb:.1f}", f"{run.tokens:,}"]
        cells += [f"{total.wall_s:.0f}", f"{total.cpu_s:.1f}", f"{run.raw_mb / total.cpu_s:.2f}"]
        cells += [f"{total.peak_mib:.0f}", f"{total.cpu_s / first.total.cpu_s:.2f}"]
        print(f"| {' | '.join([*cells, f'{run.raw_mb / first.raw_mb:.2f}'])} |")
    print("\n| stage | CPU s | wall s | peak MiB |\n|---|---:|---:|---:|")
    for name in first.stages:
        found = [run.stages[name] for run in runs]
        columns = [
            " / ".join(f"{getattr(stage, key):.{digits}f}" for stage in found)
            for key, digits in (("cpu_s", 1), ("wall_s", 1), ("peak_mib", 0))
        ]
        print(f"| {name} | {' | '.join(columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5, 1.0])
    parser.add_argument("--workers", type=int, default=2, help="at least 2: training is told from tasks so")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers must be at least 2")
    counts = [max(round(share * len(options.files)), 1) for share in options.shares]
    runs: dict[int, list[Run]] = defaultdict(list)
    for _ in range(options.rounds):
        for count in counts:
            with tempfile.TemporaryDirectory() as room:
                runs[count].append(prepare(options.files[:count], options.workers, Path(room)))
    results = [middle(runs[count]) for count in counts]
    print_tables(results)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(run) for run in results], indent=1))


if __name__ == "__main__":
    main()
