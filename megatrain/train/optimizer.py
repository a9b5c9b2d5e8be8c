"""AdamW whose step can be refused, and which parameters decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from megatrain.config import OptimizerConfig


class GuardedAdamW(torch.optim.AdamW):
    """torch's fused AdamW; unless `accepts` says yes, `step` leaves weights, moments and step count as they
    are.

    DeepSpeed calls it when it knows the gradient norm, alike on all ranks, perhaps once for each group of
    parameters; so a step that all ranks refuse is skipped whatever the ZeRO stage.
    """

    accepts: Callable[[], bool] | None = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        if self.accepts is None or self.accepts():
            super().step()


def build_optimizer(
    matrices: Iterable[nn.Parameter], vectors: Iterable[nn.Parameter], config: OptimizerConfig
) -> GuardedAdamW:
    """Matrices decay, vectors (norm weights) do not."""
    groups = [
        {"params": list(matrices), "weight_decay": config.weight_decay},
        {"params": list(vectors), "weight_decay": 0.0},
    ]
    return GuardedAdamW(
        groups,
        lr=0.0,  # set before each step from the schedule
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
