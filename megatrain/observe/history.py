"""What a run has logged, read in one pass: steps as columns, and the events that a report needs.

A million steps take 100 MB and seconds; no line is held as an object.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megatrain.observe.lines import (
    MAX_INT,
    MAX_JUMP,
    MAX_UNIX_S,
    Line,
    Newest,
    Odd,
    blocks,
    is_count,
    is_moment,
    is_number,
    last_of_each,
    lines_of,
    newest_only,
    parse,
    read_lines,
)
from megatrain.state import Event, RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED = ("time", "step_s", "ckpt_stall_s")
"""Numbers that each step has."""
OPTIONAL = ("loss", "consumed_tokens", "comm_wait_s", "comm_wait_most_s")
"""Numbers that may be null or absent: NaN in the columns."""
STARTS = (Event.START.value, Event.RESUME.value)
SLICE_S = 1.0
logger = logging.getLogger(__name__)


@dataclass
class Steps:
    """Columns of metrics.jsonl in the order of its lines, without those that do not count."""

    step: array[int] = field(default_factory=lambda: array("q"))
    skipped: bytearray = field(default_factory=bytearray)
    numbers: dict[str, array[float]] = field(
        default_factory=lambda: {name: array("d") for name in (*NEEDED, *OPTIONAL)}
    )
    stale: int = 0
    """Lines left out: of an attempt that another one had followed."""

    def add(self, line: Line) -> None:
        """Append a line that `why_no_step` finds nothing wrong with."""
        self.step.append(line["step"])
        self.skipped.append(line["skipped"])
        for name, column in self.numbers.items():
            value = line.get(name)
            column.append(math.nan if value is None else value)

    def add_block(self, block: bytes, newest: Newest) -> bool:
        """Append many lines that are all as megatrain writes them, in a tenth of the time; False, and nothing
        is changed, where one is not or may not be: look at each of them."""
        table = _as_table(block)
        if table is None:
            return False
        columns = {name: table[name].to_numpy() for name in (*NEEDED, *OPTIONAL, "step", "attempt")}
        spans = np.stack([columns[name] for name in NEEDED])
        infinite = any(np.isinf(columns[name]).any() for name in OPTIONAL)
        counts = (columns["step"], columns["attempt"])
        whole = all(one.min() >= 0 and one.max() <= MAX_INT for one in counts)
        jump = int(columns["attempt"].max()) - (newest.attempt or int(columns["attempt"][0]))
        whole = whole and jump <= MAX_JUMP
        if infinite or not whole or not ((spans >= 0) & (spans <= MAX_UNIX_S)).all():
            return False
        highest = np.maximum.accumulate(np.maximum(columns["attempt"], newest.attempt))
        counting = columns["attempt"] == highest
        newest.attempt = int(highest[-1])
        newest.stale += int((~counting).sum())
        self.step.frombytes(columns["step"][counting].tobytes())
        self.skipped.extend(table["skipped"].to_numpy(zero_copy_only=False)[counting].tobytes())
        for name, column in self.numbers.items():
            column.frombytes(columns[name][counting].tobytes())
        return True

    def column(self, name: str) -> npt.NDArray[np.float64]:
        return np.frombuffer(self.numbers[name], dtype=np.float64) if self.step else np.empty(0)

    def last_of_each(self) -> npt.NDArray[np.int64]:
        """Return the rows that no later one undid, as `last_of_each` of lines; their steps rise."""
        kept: list[int] = []
        steps = self.step
        for row, step in enumerate(steps):
            while kept and steps[kept[-1]] >= step:
                kept.pop()
            kept.append(row)
        return np.array(kept, dtype=np.int64)


def _as_table(block: bytes) -> pa.Table | None:
    """Parse lines of metrics.jsonl with Arrow; None where `why_no_step` might find anything odd in one."""
    import pyarrow as pa
    import pyarrow.json

    lines = block.count(b"\n")
    # As many objects as lines, nothing within them, nothing but text.
    if not block.isascii() or block.count(b"{") != lines or b"[" in block or b"\r" in block:
        return None
    numbers = [pa.field(name, pa.float64()) for name in (*NEEDED, *OPTIONAL)]
    counts = [pa.field(name, pa.int64()) for name in ("step", "attempt")]
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema([*numbers, *counts, pa.field("skipped", pa.bool_())]),
        unexpected_field_behavior="ignore",
    )
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            parse_options=options,
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        )
    except pa.ArrowInvalid:
        return None
    needed = (*NEEDED, "step", "attempt", "skipped")
    if table.num_rows != lines or any(table[name].null_count for name in needed):
        return None
    return table.combine_chunks()


@dataclass
class History:
    """A run's steps and events."""

    steps: Steps = field(default_factory=Steps)
    events: list[Line] = field(default_factory=list)
    """Without those of saves, which are the most."""


def read_history(folder: RunFolder) -> History:
    """Read all that a run has logged; what no run logs, or cannot be read, is skipped with a
    warning for each file."""
    *_, history = reading(folder)
    assert history is not None
    return history


def reading(folder: RunFolder) -> Iterator[History | None]:
    """Read as `read_history` does, yielding None about once a second before the result."""
    history, newest = History(), Newest()

    def quick(block: bytes) -> bool:
        return history.steps.add_block(block, newest)

    def step(line: Line) -> None:
        if newest.counts(line):
            history.steps.add(line)

    def event(line: Line) -> None:
        if line["event"] not in (Event.SAVE.value, Event.COMMIT.value):
            history.events.append(line)

    yield from _take(folder.metrics, quick, why_no_step, step)
    yield from _take(folder.events, lambda block: False, why_no_event, event)
    history.steps.stale = newest.stale
    yield history


def _take(
    path: Path,
    quick: Callable[[bytes], bool],
    why_not: Callable[[Line], str],
    take: Callable[[Line], None],
) -> Iterator[None]:
    """Hand over the sound lines of a file, and unparsed those that `quick` takes; what is not read is one
    warning."""
    odd, until = Odd(path), time.monotonic() + SLICE_S
    try:
        for first, block in blocks(path):
            if not quick(block):
                for number, text in lines_of(first, block):
                    line = parse(number, text, odd)
                    if line is None:
                        continue
                    if why := why_not(line):
                        odd.add(number, why)
                    else:
                        take(line)
            if time.monotonic() > until:
                yield None
                until = time.monotonic() + SLICE_S
    except OSError as error:
        logger.warning("%s: cannot be read (%s); its lines do not count", path, error.strerror or error)
    odd.warn()


def read_metrics(folder: RunFolder) -> list[Line]:
    """Return the steps in order, each once: a step that was computed again counts as its last computation.

    A line torn by a kill is left out, and so is what a rollback or a resume undid, and what an attempt
    appended after another one had taken over.
    """
    return last_of_each(step_lines(folder))


def step_lines(folder: RunFolder) -> Iterator[Line]:
    """Yield the lines of steps that count, in the order of the file."""
    lines = newest_only(read_lines(folder.metrics))
    return (line for line in lines if is_count(line.get("step")))


def read_evaluations(folder: RunFolder) -> list[Line]:
    """Return the evaluations in order of steps, each with its `results`; the last one of a step counts."""
    return evaluations(line for line in read_lines(folder.events) if not why_no_event(line))


def evaluations(events: Iterator[Line] | list[Line]) -> list[Line]:
    """Return those among sound events that no later one undid."""
    return last_of_each(newest_only(one for one in events if one["event"] == Event.EVALUATION.value))


def why_no_step(line: Line) -> str:
    """Return what is wrong with a line of metrics.jsonl; empty if it is a step's."""
    get = line.get
    if not is_count(get("step")):
        return "`step` is no count"
    if not is_moment(get("time")):
        return "`time` is no moment"
    for name in ("step_s", "ckpt_stall_s"):
        if not is_moment(get(name)):
            return f"`{name}` is no time span"
    if type(get("skipped")) is not bool:
        return "`skipped` is neither true nor false"
    for name in OPTIONAL:
        value = get(name)
        if value is not None and not is_number(value):
            return f"`{name}` is no number"
    return "" if "attempt" not in line or is_count(line["attempt"]) else "`attempt` is no count"


def why_no_event(line: Line) -> str:
    """Return what is wrong with a line of events.jsonl; empty if it is an event's."""
    kind = line.get("event")
    if not isinstance(kind, str):
        return "`event` is no text"
    checks: dict[str, Callable[[object], bool]] = {"unix": is_moment}
    if kind in STARTS and "startup_s" in line:
        checks["startup_s"] = is_moment
    elif kind == Event.ROLLBACK.value:
        checks["to_step"] = is_count
    elif kind == Event.SLOW.value:
        checks |= {"rank": is_count, "host": _is_text, "ratio": is_number, "step": is_count}
    elif kind == Event.EVALUATION.value:
        checks |= {"step": is_count, "results": _is_table}
    for name, sound in checks.items():
        if not sound(line.get(name)):
            return f"a {kind} event with an odd `{name}`"
    return "" if "attempt" not in line or is_count(line["attempt"]) else "`attempt` is no count"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
    """Source → name → number, as an evaluation writes it; null stands for what is not finite."""
    return isinstance(value, dict) and all(
        isinstance(row, dict) and all(number is None or is_number(number) for number in row.values())
        for row in value.values()
    )
