"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from megatrain.config import ScheduleConfig


def learning_rate(step: int, schedule: ScheduleConfig, steps: int) -> float:
    """Learning rate of step number `step` (from 0) of a run of `steps`.

    Linear warm-up that reaches the peak after `warmup_steps`, then the schedule's kind, which comes to
    `final_fraction` of the peak at the last step. wsd: warm-up, stable, then a linear decay (arXiv
    2404.06395).
    """
    peak, final = schedule.learning_rate, schedule.learning_rate * schedule.final_fraction
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    begin = schedule.warmup_steps
    if schedule.kind == "wsd":
        begin = max(begin, steps - wsd_decay_steps(schedule, steps))
    done = min(1.0, max(0.0, (step - begin) / max(1, steps - 1 - begin)))
    match schedule.kind:
        case "constant":
            return peak
        case "cosine":
            return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * done))
        case "linear" | "wsd":
            return peak + (final - peak) * done


def wsd_decay_steps(schedule: ScheduleConfig, steps: int) -> int:
    """Length of wsd's final decay; a tenth of the run unless the config says otherwise."""
    return schedule.decay_steps or max(1, steps // 10)
