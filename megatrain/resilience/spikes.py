"""Whether a step may change the weights, by its loss and gradient norm and those of the updates before.

Median and median absolute deviation of a window: a few outliers move neither, and what was judged bad never
enters. One-sided, for a loss that falls is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from megatrain.config import SpikesConfig
from megatrain.state import Verdict

Window = tuple[tuple[float, float], ...]
SIGMA = 1.4826  # of a normal distribution, in median absolute deviations


@dataclass(frozen=True)
class Judge:
    """Limits for one step; alike on all ranks, for all have the same window."""

    loss_limit: float = math.inf
    norm_limit: float = math.inf

    def __call__(self, loss: float, norm: float) -> Verdict:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Verdict.NOT_FINITE
        if loss > self.loss_limit:
            return Verdict.LOSS_SPIKE
        return Verdict.NORM_SPIKE if norm > self.norm_limit else Verdict.FINE


def judge_after(window: Window, config: SpikesConfig) -> Judge:
    """Of the step that follows the updates in `window`."""
    recent = window[-config.window :]
    if config.action == "off" or len(recent) < config.warmup_updates:
        return Judge()
    losses, norms = zip(*recent, strict=True)
    return Judge(
        limit(losses, config.loss_threshold, config.loss_floor),
        limit(norms, config.norm_threshold, config.norm_floor),
    )


def limit(values: Sequence[float], threshold: float, floor: float) -> float:
    """`threshold` robust standard deviations above the median, and `floor` times the median on top: a curve
    that is flat has no deviation to speak of."""
    middle = median_low(values)
    deviation = SIGMA * median_low([abs(value - middle) for value in values])
    return middle + threshold * deviation + floor * abs(middle)


def extended(window: Window, loss: float, norm: float, keep: int) -> Window:
    """With the numbers of one more update, and without the oldest beyond `keep`."""
    assert math.isfinite(loss) and math.isfinite(norm)
    return (*window, (loss, norm))[-keep:]
