"""The rehearsal of a resume: the first steps of a run, unbroken, and again killed and resumed."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatrain.checkpoint.place import LocalPlace
from megatrain.checkpoint.read import committed
from megatrain.cluster.comparison import TOLERANCE, Comparison, Trace, compare, read_trace
from megatrain.cluster.launchers import local_world, require_ranks_fit
from megatrain.cluster.scratch import claimed, require_apart
from megatrain.cluster.supervisor import launch
from megatrain.config import Config, derive, parse_config, to_yaml
from megatrain.errors import FailedWork, UserError, require
from megatrain.faults import VARIABLE as FAULT_VARIABLE
from megatrain.observe.history import read_metrics
from megatrain.output import say
from megatrain.state import RunFolder, step_of
from megatrain.train.begun import settled
from megatrain.train.main import PREEMPTED
from megatrain.train.preflight import prepare_run

SAY_EVERY_S = 2.0


@dataclass(frozen=True)
class Layout:
    """How many ranks share a layer, how many share the batch, and the ZeRO stage."""

    tensor: int
    data: int
    zero: int

    @property
    def world(self) -> int:
        return self.tensor * self.data

    def __str__(self) -> str:
        return f"tp{self.tensor}-dp{self.data}-zero{self.zero}"


@dataclass(frozen=True)
class Plan:
    """What is rehearsed, checked; `layouts` begins with the config's own."""

    layouts: Mapping[Layout, Config]
    """Each layout's config, apart from the folder and when to save."""
    before: int
    after: int
    folder: Path
    tolerance: float
    keep: bool

    @property
    def own(self) -> Layout:
        return next(iter(self.layouts))

    @property
    def steps(self) -> int:
        return self.before + self.after

    @property
    def runs(self) -> int:
        return 2 + len(self.layouts)


@dataclass(frozen=True)
class Outcome:
    """How the killed run went on, on one layout."""

    layout: Layout
    comparison: Comparison
    tolerance: float | None
    """None: bit for bit."""
    seconds: float


def parse_layout(text: str) -> Layout:
    """`tp2-dp1-zero3`. Raises UserError for anything else."""
    found = re.fullmatch(r"tp([1-9]\d*)-dp([1-9]\d*)-zero(\d)", text)
    if found is None:
        raise UserError(f"--layouts: {text!r} is not of the form tpT-dpD-zeroZ; write it like tp2-dp1-zero3")
    return Layout(*map(int, found.groups()))


def plan_rehearsal(
    config: Config,
    layouts: Sequence[Layout],
    *,
    before: int,
    after: int,
    folder: Path | None,
    tolerance: float | None,
    keep: bool,
) -> Plan:
    """Check all that can be checked before a process starts; raises UserError. Writes nothing."""
    for name, value in (("before", before), ("after", after)):
        require(value >= 1, f"--{name} ({value}) must be at least 1")
    require(
        before + after <= config.train.steps,
        f"--before ({before}) + --after ({after}) must not be above train.steps ({config.train.steps})",
    )
    require(tolerance is None or tolerance >= 0, f"--tolerance ({tolerance}) must be 0 or more")
    run = Path(config.run.folder)
    folder = folder or run.parent / f"{run.name}-verify-resume"
    require_apart(folder, run)
    config = settled(config)  # of the real run, where it is begun
    derived = derive(config, local_world(config))
    own = Layout(config.parallel.tensor, derived.data_parallel, config.parallel.zero)
    steps = before + after
    for layout in (own, *layouts):
        require_ranks_fit(layout.world, f"layout {layout}")
    configs = {layout: _config_for(config, layout, folder, steps) for layout in (own, *layouts)}
    for layout, changed in configs.items():
        _check(layout, changed)
    return Plan(
        configs,
        before=before,
        after=after,
        folder=folder,
        tolerance=TOLERANCE[config.precision.dtype] if tolerance is None else tolerance,
        keep=keep,
    )


def rehearse(plan: Plan) -> list[Outcome]:
    """Train unbroken, train and kill, go on on every layout, compare. The folder goes when all agree.

    Raises FailedWork when a run ends otherwise than it must, KeyboardInterrupt when a signal came.
    """
    with claimed(plan.folder, keep=plan.keep):
        unbroken = _unbroken(plan)
        killed = _killed(plan)
        outcomes = [_resumed(plan, layout, killed, unbroken) for layout in plan.layouts]
        if not plan.keep and all(outcome.comparison.first is None for outcome in outcomes):
            shutil.rmtree(plan.folder)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a layout; differences are relative, the largest of all steps."""
    columns = "layout|ranks|steps|resumed at|sample ids|max loss diff|max grad norm diff|seconds|verdict"
    head = tuple(columns.split("|"))
    rows = [head, *map(_row, outcomes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = (
        [
            cell.ljust(width) if number in (0, 4, 8) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    )
    return "\n".join("  ".join(cells).rstrip() for cells in texts)


def first_difference(outcomes: Sequence[Outcome]) -> str | None:
    """One line on the first layout that differs."""
    return next(
        (f"{outcome.layout}: {outcome.comparison.first}" for outcome in outcomes if outcome.comparison.first),
        None,
    )


def _row(outcome: Outcome) -> tuple[str, ...]:
    comparison = outcome.comparison
    agrees = "equal bit for bit" if outcome.tolerance is None else f"equal within {outcome.tolerance:g}"
    return (
        str(outcome.layout),
        str(outcome.layout.world),
        str(comparison.steps),
        str(comparison.resumed_at),
        "equal" if comparison.samples_equal else "DIFFER",
        *(
            f"{comparison.largest[name]:.1e}" if comparison.largest[name] else "0"
            for name in ("loss", "grad_norm")
        ),
        f"{outcome.seconds:.1f}",
        agrees if comparison.first is None else "DIFFERS",
    )


# --- the runs ---


def _unbroken(plan: Plan) -> Trace:
    run = RunFolder(plan.folder / "unbroken")
    _say(f"1/{plan.runs}: unbroken to step {plan.steps}, on {plan.own}")
    code = _train(plan, plan.own, run, save_every=plan.steps)
    _require_ended(run, code == 0, f"ended with exit code {code}")
    return read_trace(run)


def _killed(plan: Plan) -> RunFolder:
    """A checkpoint after `before` steps, then some steps that are lost: it is killed when it says that the
    checkpoint is whole, which it does at the end of a later step."""
    run = RunFolder(plan.folder / "killed")
    _say(f"2/{plan.runs}: saved after step {plan.before}, killed soon after, on {plan.own}")
    code = _train(plan, plan.own, run, save_every=plan.before, fault="point=saved,rank=0,do=kill")
    last = max((record["step"] for record in read_metrics(run)), default=0)
    _require_ended(
        run,
        code != 0 and last > plan.before,
        f"was to be killed after step {plan.before}, but ended after {last} with exit code {code}",
    )
    saved = [step_of(name) for name in committed(LocalPlace(run.checkpoints))]
    _require_ended(
        run,
        saved == [plan.before],
        f"was killed after step {last} with checkpoints of steps {saved}, not of {plan.before} alone",
    )
    return run


def _resumed(plan: Plan, layout: Layout, killed: RunFolder, unbroken: Trace) -> Outcome:
    """Go on with a copy of the killed run."""
    run = RunFolder(plan.folder / f"resumed-{layout}")
    number = 3 + list(plan.layouts).index(layout)
    _say(f"{number}/{plan.runs}: a copy of the killed run, resumed to step {plan.steps}, on {layout}")
    shutil.copytree(killed.root, run.root)
    started = time.monotonic()
    code = _train(plan, layout, run, save_every=plan.steps)
    seconds = time.monotonic() - started
    _require_ended(run, code == 0, f"ended with exit code {code}")
    tolerance = None if layout == plan.own and _repeatable(plan.layouts[layout]) else plan.tolerance
    comparison = compare(
        unbroken, read_trace(run), steps=plan.steps, checkpoint=plan.before, tolerance=tolerance
    )
    if comparison.first is None and not plan.keep:
        shutil.rmtree(run.root)  # a checkpoint can be large
    return Outcome(layout, comparison, tolerance, seconds)


def _repeatable(config: Config) -> bool:
    """Whether two equal starts must give equal bits: on GPUs only with deterministic kernels."""
    import torch

    return config.train.deterministic or not torch.cuda.is_available()


def _train(plan: Plan, layout: Layout, run: RunFolder, *, save_every: int, fault: str = "") -> int:
    """Run it to its end; what it says goes to a file beside its folder. Gives the exit code."""
    changes = [f"run.folder={_quoted(run.root)}", f"checkpoint.every={save_every}"]
    config = parse_config(to_yaml(plan.layouts[layout]), changes)
    path = run.root.with_suffix(".yaml")
    path.write_text(to_yaml(config), encoding="utf-8")
    with _output(run).open("wb") as output:
        ended = launch(
            config,
            path.resolve(),
            [],
            world=layout.world,
            variables={FAULT_VARIABLE: fault},
            output=output,
            meanwhile=_Progress(run, plan.steps),
        )
    code = ended.code if ended.code is not None else 1
    if ended.asked or code == PREEMPTED:  # nothing to go on with: a rehearsal begins anew
        raise KeyboardInterrupt
    return code


class _Progress:
    """Says now and then which step a run has come to."""

    def __init__(self, run: RunFolder, steps: int) -> None:
        self._run, self._steps = run, steps
        self._size, self._said_at = self._now(), time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._said_at < SAY_EVERY_S or self._now() == self._size:
            return
        self._size, self._said_at = self._now(), time.monotonic()
        records = read_metrics(self._run)
        if records:
            _say(f"   step {records[-1]['step']}/{self._steps}")

    def _now(self) -> int:
        return self._run.metrics.stat().st_size if self._run.metrics.exists() else 0


def _require_ended(run: RunFolder, well: bool, how: str) -> None:
    """Raises FailedWork with the run's own last words."""
    if well:
        return
    said = _output(run).read_text(encoding="utf-8", errors="replace").splitlines()
    ours = [line.removeprefix("megatrain: ") for line in said if line.startswith("megatrain: ")]
    words = f": {ours[-1]}" if ours else ""
    raise FailedWork(f"the {run.root.name} run {how}{words}; see {_output(run)}")


def _output(run: RunFolder) -> Path:
    return run.root.with_suffix(".log")


def _say(text: str) -> None:
    say(text)


# --- before the runs ---


def _config_for(config: Config, layout: Layout, folder: Path, steps: int) -> Config:
    """The user's config on this layout; the schedule, and all else that decides a number, stays."""
    changes = (
        f"parallel.tensor={layout.tensor}",
        f"parallel.zero={layout.zero}",
        f"cluster.processes={layout.world}",
        f"train.stop_after={steps}",
        f"run.folder={_quoted(folder / 'run')}",
        "observe.sample_ids=true",
        "observe.wandb=off",
        # Nothing is written where the real run writes.
        "checkpoint.folder=null",
        "checkpoint.tiers=[]",
        "cluster.hostfile=null",
    )
    return parse_config(to_yaml(config), changes, where=f"layout {layout}")


def _check(layout: Layout, config: Config) -> None:
    """As `megatrain check` does."""
    prepare_run(config, layout.world)


def _quoted(path: Path) -> str:
    """As YAML text, whatever its name looks like."""
    return json.dumps(str(path), ensure_ascii=False)
