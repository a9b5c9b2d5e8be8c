"""AdamW whose step can be vetoed, and which parameters decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from megatrain.config import OptimizerConfig


class GuardedAdamW(torch.optim.AdamW):
    """torch's fused AdamW; with `veto` set, `step` leaves weights, moments and step count as they are.

    DeepSpeed calls it after it has reduced and clipped the gradients, alike on all ranks, so that a step
    which all ranks
    agreed to skip is skipped whatever the ZeRO stage.
    """

    veto = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        if not self.veto:
            super().step()


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> GuardedAdamW:
    """Matrices decay, vectors (norm weights) do not."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return GuardedAdamW(
        groups,
        lr=0.0,  # set before each step from the schedule
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
