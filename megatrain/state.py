"""The state of a run: what is stored of it, what one step tells, which events there are, where its files
lie."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megatrain.errors import FailedWork, UserError

STATE_VERSION = 2
LISTS = {"skipped", "window"}
MOST = 1 << 60
"""Above every count of a run; sums of a few of them fit into 64 bits."""
CHECKPOINT_NAME = re.compile(r"step-[0-9]+")


@dataclass(frozen=True)
class RunState:
    """All that a run remembers beside its tensors; the order of data and all randomness follow from it."""

    seed: int
    data_fingerprint: str
    step: int = 0
    """Steps begun and ended, skipped ones too; the learning rate is a function of it."""
    optimizer_step: int = 0
    """Updates that the optimizer made: Adam's own step count."""
    consumed_samples: int = 0
    """Samples that steps took, of the run's order without `skipped`; which comes next follows from both."""
    consumed_tokens: int = 0
    """Tokens that counted in the loss so far."""
    skipped: tuple[tuple[int, int], ...] = ()
    """Ranges [first, last) of samples that are left out, in order."""
    skipped_in_row: int = 0
    """Steps skipped since the last update."""
    window: tuple[tuple[float, float], ...] = ()
    """Loss and gradient norm of the last updates, by which the next step is judged; the newest comes last."""
    attempt: int = 1
    """How often the run was started."""

    def to_json(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, **asdict(self)}

    @staticmethod
    def from_json(tree: Any) -> RunState:
        """Raises UserError for a newer version, FailedWork for anything that is not a run's state: other
        fields, other types, counts that no run can have."""
        try:
            return _state_of(tree)
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise FailedWork(f"not a run state: {error}") from None


def _state_of(tree: Any) -> RunState:
    if type(tree) is not dict or type(tree.get("version")) is not int:
        raise ValueError("it has no version")
    version = tree["version"]
    if version > STATE_VERSION:
        raise UserError(
            f"run state version {version} is newer than this megatrain reads ({STATE_VERSION}); upgrade"
        )
    if version == 1:  # which had no window
        tree = {"window": [], **tree}
    types = {field.name: field.type for field in fields(RunState)}
    if version < 1 or tree.keys() - {"version"} != types.keys():
        raise ValueError(f"version {version} with {', '.join(sorted(tree))}"[:200])
    for name in types.keys() - LISTS:
        if type(tree[name]).__name__ != types[name]:
            raise ValueError(f"{name} is {str(tree[name])[:40]!r}")
    values = {name: tree[name] for name in types}
    values["skipped"] = tuple((first, last) for first, last in tree["skipped"])
    values["window"] = tuple((float(loss), float(norm)) for loss, norm in tree["window"])
    if not all(math.isfinite(number) for pair in values["window"] for number in pair):
        raise ValueError("its window has a number that is not finite")
    state = RunState(**values)
    _check_ranges(state)
    return state


def _check_ranges(state: RunState) -> None:
    """Raise ValueError for counts that no run can have."""
    for name in (
        "step",
        "optimizer_step",
        "consumed_samples",
        "consumed_tokens",
        "skipped_in_row",
        "attempt",
    ):
        count = getattr(state, name)
        if not 0 <= count < MOST:
            raise ValueError(f"{name} is {count}")
    if state.optimizer_step + state.skipped_in_row > state.step:
        updates = f"{state.optimizer_step} updates and {state.skipped_in_row} skipped in a row"
        raise ValueError(f"{updates} in {state.step} steps")
    before = 0
    for first, last in state.skipped:
        if type(first) is not int or type(last) is not int or not before <= first < last < MOST:
            raise ValueError(f"skipped has the range {first}, {last} after {before}")
        before = last


class Verdict(enum.Enum):
    """What a step's loss and gradient norm say; only a fine one changes the weights."""

    FINE = "fine"
    NOT_FINITE = "not finite"
    NO_TOKENS = "no token of the batch counts"
    LOSS_SPIKE = "loss spike"
    NORM_SPIKE = "gradient norm spike"


class Stop(enum.Enum):
    """Why a run stops before its last step."""

    PREEMPTED = "preempted"
    ASKED = "asked"


class Event(enum.Enum):
    """The vocabulary of events.jsonl."""

    START = "start"
    RESUME = "resume"
    CHANGE = "change"
    SAVE = "save"
    COMMIT = "commit"
    EVALUATION = "evaluation"
    FAULT = "fault"
    SKIP = "skip"
    SLOW = "slow"
    ROLLBACK = "rollback"
    PREEMPT = "preempt"
    RESTART = "restart"
    GIVE_UP = "give up"
    FAIL = "fail"
    STOP = "stop"
    END = "end"


@dataclass(frozen=True)
class StepResult:
    """What all ranks know alike after a step."""

    loss: float
    """Mean over the valid tokens of the global batch, in nats."""
    grad_norm: float
    """Before clipping, over all parameters."""
    learning_rate: float
    samples: int
    valid_tokens: int
    verdict: Verdict
    step_s: float
    """Wall time, of the slowest rank."""
    data_wait_s: float
    """Longest wait for data of any rank."""
    stop: Stop | None
    save: bool
    """Somebody asked for a checkpoint."""
    saving: bool
    """Some rank is still writing the last one."""
    own_s: tuple[float, ...] = ()
    """By rank: its own work in the step before (train/clock.py)."""
    comm_wait_s: tuple[float, ...] = ()
    """By rank: how long it stood in collectives in the step before; empty where that cannot be timed."""

    @property
    def skipped(self) -> bool:
        """The weights were left as they were."""
        return self.verdict is not Verdict.FINE


def checkpoint_name(step: int) -> str:
    """Of the folder of a checkpoint."""
    return f"step-{step:08d}"


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder is named like a checkpoint: "step-" and ASCII digits, nothing else."""
    return CHECKPOINT_NAME.fullmatch(name) is not None


def step_of(name: str) -> int:
    """Return the step of a checkpoint's folder, "step-00001000"."""
    return int(name[5:])


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run lie."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def settings(self) -> Path:
        """Settings that decide numbers, of each start that changed them."""
        return self.root / "settings.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def lease(self) -> Path:
        """Which attempt holds the run."""
        return self.root / "lease.json"

    @property
    def bad_hosts(self) -> Path:
        """Hosts that the check before the first step has found wrong or slow; they are left out."""
        return self.root / "bad-hosts.txt"

    @property
    def checkpoints(self) -> Path:
        """Unless checkpoint.folder names another place."""
        return self.root / "checkpoints"

    @property
    def heartbeats(self) -> Path:
        """Where each rank is, as long as it lives."""
        return self.root / "heartbeats"

    @property
    def control(self) -> Path:
        """What supervisors and their ranks tell each other, a folder for each launch."""
        return self.root / "control"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def scores(self, split: str) -> Path:
        """What `megatrain evaluate` last found on a split."""
        return self.root / f"scores-{split}.json"

    @property
    def left_out(self) -> Path:
        """Which samples the run leaves out, and the rollbacks that made it so."""
        return self.root / "skipped.json"

    @property
    def loss_curve(self) -> Path:
        return self.root / "loss.png"

    @property
    def stop_file(self) -> Path:
        """Its appearance asks for a save and a clean stop with exit code 0."""
        return self.root / "STOP"

    @property
    def save_file(self) -> Path:
        """Its appearance asks for a checkpoint."""
        return self.root / "SAVE"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / checkpoint_name(step)

    def log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank:04d}.log"

    def stacks(self, rank: int) -> Path:
        """Of a rank whose watchdog struck."""
        return self.logs / f"stacks-{rank:04d}.txt"

    def samples(self, rank: int) -> Path:
        """Which samples this rank fed, with observe.sample_ids."""
        return self.logs / f"samples-rank-{rank:04d}.jsonl"
