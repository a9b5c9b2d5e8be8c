"""The record of one step and of one event: what metrics.jsonl and events.jsonl hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from megatrain.state import Event, RunState, StepResult

Record = dict[str, Any]


@dataclass(frozen=True)
class Hardware:
    """What turns seconds into MFU."""

    flops_per_token: float
    """Model FLOPs of one position, forward and backward (model/flops.py)."""
    peak_flops_total: float
    """Of all devices of the run, a second."""


@dataclass(frozen=True)
class Circumstances:
    """What is known of a step beside its result, on the rank that writes."""

    sequence_length: int
    ckpt_stall_s: float
    mem_gib: float
    unix_s: float
    slow: str | None = None
    """Ranks that were slow when it was last judged."""


def step_record(state: RunState, result: StepResult, hardware: Hardware, around: Circumstances) -> Record:
    """One line of metrics.jsonl; `state` is the one after the step.

    `tokens_per_s` counts the positions of the global batch, those without a label too, for they are computed
    as well. A skipped step was computed, so it has a speed. `comm_wait_s` is that of the rank that waits
    least, for which the others wait; `comm_wait_most_s` less that is what the others wait for it. Both are of
    the step before, null in the first of a start and where waits cannot be timed.
    """
    positions = result.samples * around.sequence_length
    tokens_per_s = positions / result.step_s if result.step_s > 0 else None
    peak = hardware.peak_flops_total
    return {
        "step": state.step,
        "consumed_samples": state.consumed_samples,
        "consumed_tokens": state.consumed_tokens,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": result.learning_rate,
        "step_s": result.step_s,
        "tokens_per_s": tokens_per_s,
        "mfu": tokens_per_s * hardware.flops_per_token / peak if peak > 0 and tokens_per_s else None,
        "data_wait_s": result.data_wait_s,
        "comm_wait_s": min(result.comm_wait_s, default=None),
        "comm_wait_most_s": max(result.comm_wait_s, default=None),
        "ckpt_stall_s": around.ckpt_stall_s,
        "mem_gib": around.mem_gib,
        "skipped": result.skipped,
        "slow": around.slow,
        "attempt": state.attempt,
        "time": around.unix_s,
    }


def event_record(event: Event, step: int, cause: str, details: Mapping[str, Any], unix_s: float) -> Record:
    """One line of events.jsonl; `time` is ISO 8601 in UTC, `unix` the same moment in seconds."""
    time = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"event": event.value, "step": step, "cause": cause, "time": time, "unix": unix_s, **details}


def as_json(value: Any) -> Any:
    """The value with what JSON has no word for (NaN, infinities) as null, and paths or enums as text."""
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): as_json(inner) for key, inner in value.items()}
        case list() | tuple():
            return [as_json(inner) for inner in value]
        case _:
            return str(value)
