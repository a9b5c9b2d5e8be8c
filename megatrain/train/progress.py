"""Evidence of a run's progress in its folder, so that absent checkpoints are not taken for a fresh start."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from megatrain.data.skipped import Ranges, covers
from megatrain.errors import UserError, require
from megatrain.observe.lines import Furthest, is_count, newest_only, read_lines
from megatrain.resilience.timeline import Records
from megatrain.state import Event, RunFolder


@dataclass(frozen=True)
class Progress:
    """What the logs of a run say of its present time line, which begins with its last event `start`."""

    logged: int = 0
    """The last step of metrics.jsonl; 0: none."""
    committed: int = 0
    """Step of the newest checkpoint that was committed, in any tier; 0: none."""
    where: str = ""
    """The tier of that one; empty for the main one."""
    rollbacks: tuple[tuple[int, int, int], ...] = ()
    """(step gone back to, first, last) of the samples [first, last) that rollbacks left out."""
    begun: bool = True
    """The event `start` is there: no events were lost."""


def read_progress(folder: RunFolder, *, steps: bool = True) -> Progress:
    """Return what the logs say, with `steps` also of metrics.jsonl. Raises UserError where they cannot be
    read."""
    try:
        logged = Furthest(folder.metrics).step() if steps else 0
        found = Progress(begun=not logged)
        for line in newest_only(read_lines(folder.events)):
            found = _after(found, line)
    except OSError as error:
        raise UserError(
            f"{folder.events}: cannot be read ({error.strerror or error}); restore or remove it"
        ) from None
    return replace(found, logged=logged)


def require_not_lost(folder: RunFolder, progress: Progress, place: object, *, on_purpose: bool) -> None:
    """Raise UserError where no checkpoint was found though the run has had one."""
    if on_purpose:
        return
    way = (
        "mount or restore it, correct checkpoint.folder, choose another run.folder, or begin anew here on "
        "purpose with checkpoint.restart_from_zero=true"
    )
    tier = f" ({progress.where})" if progress.where else ""
    steps = f"{folder.metrics} has steps up to {progress.logged}"
    require(
        progress.committed == 0,
        f"{place}: no checkpoint found, but {folder.events} says that step {progress.committed} was "
        f"committed{tier} and {steps}: {way}",
    )
    require(
        progress.begun,
        f"{place}: no checkpoint found, but {steps} and {folder.events} does not say whether one was "
        f"committed: {way}",
    )


def require_left_out(folder: RunFolder, progress: Progress, records: Records, skipped: Ranges) -> None:
    """Raise UserError where samples that a rollback left out would be taken, for skipped.json is absent."""
    if folder.left_out.exists():
        return
    known = [*skipped, *((one.first, one.last) for one in records)]
    for to_step, first, last in progress.rollbacks:
        require(
            covers(tuple(known), first, last),
            f"{folder.left_out}: absent, but {folder.events} has a rollback to step {to_step} that left out "
            f"the samples {first} to {last - 1}: restore the file, or take them on purpose by writing "
            '{"version": 1, "left_out": []} into it',
        )


def fresh_start(progress: Progress) -> str:
    """Return the cause of the event `start`: empty for a run without any progress."""
    if not progress.logged:
        return ""
    if progress.committed:
        return (
            f"checkpoint.restart_from_zero: steps up to {progress.logged} are logged, step "
            f"{progress.committed} was committed and is not found: beginning at step 0"
        )
    return f"steps up to {progress.logged} are logged, no checkpoint was ever committed: beginning at step 0"


def newer_lost(progress: Progress, step: int) -> str | None:
    """Return what to say where the run resumes from an older checkpoint than the newest committed one."""
    if progress.committed <= step:
        return None
    tier = f" ({progress.where})" if progress.where else ""
    return (
        f"the checkpoint of step {progress.committed} was committed{tier} but is not found: resuming from "
        f"step {step}"
    )


def _after(progress: Progress, line: dict[str, Any]) -> Progress:
    """Return the progress with one more event; one that no run logs changes nothing."""
    kind, step = line.get("event"), line.get("step")
    if kind == Event.START.value:
        return Progress()
    if kind == Event.ROLLBACK.value:
        to_step, samples = line.get("to_step"), line.get("samples")
        if (
            is_count(to_step)
            and isinstance(samples, list)
            and len(samples) == 2
            and all(map(is_count, samples))
        ):
            gone = (*progress.rollbacks, (int(line["to_step"]), int(samples[0]), int(samples[1])))
            return replace(progress, committed=min(progress.committed, gone[-1][0]), rollbacks=gone)
    if not is_count(step):
        return progress
    number = int(line["step"])
    if kind == Event.COMMIT.value and number >= progress.committed:
        return replace(progress, committed=number, where=str(line.get("cause") or ""))
    if kind == Event.RESUME.value:
        return replace(progress, committed=min(progress.committed or number, number), begun=True)
    return progress
