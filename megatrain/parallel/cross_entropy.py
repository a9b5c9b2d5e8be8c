"""Cross-entropy on logits whose vocabulary is split over the tensor axis; the logits are never gathered.

Legend: T tokens (rows), V vocabulary entries of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from megatrain.parallel.collectives import all_reduce
from megatrain.parallel.context import Axis

CHUNK_ELEMENTS = 1 << 20  # fp32 copies exist of one chunk of rows at a time, so that they stay in the cache


class _CrossEntropySum(torch.autograd.Function):
    """The logits are overwritten by their own gradient in the forward pass: no second tensor of that size
    exists."""

    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, labels_T: torch.Tensor, mask_T: torch.Tensor, axis: Axis
    ) -> torch.Tensor:
        rows, width = logits_TV.shape
        logits_TV = logits_TV.detach()
        own_T = labels_T - axis.rank * width
        inside_T = (own_T >= 0) & (own_T < width)
        own_T = own_T.clamp(0, width - 1)
        top_T = all_reduce(logits_TV.amax(dim=1).float(), axis, dist.ReduceOp.MAX)

        step = max(1, CHUNK_ELEMENTS // width)
        chunks = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
        sums_2T = torch.zeros(2, rows, dtype=torch.float32, device=logits_TV.device)
        for chunk in chunks:
            sums_2T[0, chunk] = (logits_TV[chunk].float() - top_T[chunk, None]).exp_().sum(dim=1)
        sums_2T[1] = logits_TV.gather(1, own_T[:, None])[:, 0].float() * inside_T
        all_reduce(sums_2T, axis)
        log_sum_T = top_T + sums_2T[0].log()
        weight_T = mask_T.float()
        total = ((log_sum_T - sums_2T[1]) * weight_T).sum()

        if ctx.needs_input_grad[0]:
            hit_T = (inside_T * weight_T)[:, None]
            for chunk in chunks:
                grad = (logits_TV[chunk].float() - log_sum_T[chunk, None]).exp_().mul_(weight_T[chunk, None])
                grad.scatter_add_(1, own_T[chunk, None], -hit_T[chunk])
                logits_TV[chunk] = grad.to(logits_TV.dtype)
            ctx.grad_TV = logits_TV
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        grad_TV, ctx.grad_TV = ctx.grad_TV, None
        return grad_TV.mul_(grad.to(grad_TV.dtype)), None, None, None


class CrossEntropySum(nn.Module):
    """Sum over the tokens that the mask counts of -log softmax(logits)[label], in nats."""

    def __init__(self, axis: Axis | None = None) -> None:
        super().__init__()
        self.axis = axis or Axis()

    def forward(self, logits_TV: torch.Tensor, labels_T: torch.Tensor, mask_T: torch.Tensor) -> torch.Tensor:
        """Collective over the axis. The logits are used up: their memory becomes their gradient's."""
        total: torch.Tensor = _CrossEntropySum.apply(logits_TV, labels_T, mask_T, self.axis)  # type: ignore[no-untyped-call]
        return total
