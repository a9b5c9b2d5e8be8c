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

CHUNK_ELEMENTS = 1 << 18  # fp32 copies exist of one chunk of rows at a time, so that they stay in the cache


class _CrossEntropySum(torch.autograd.Function):
    """The logits are overwritten by exp(logit - largest), then by their own gradient: no second tensor of
    that size exists, and the exponentials are taken once."""

    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, labels_T: torch.Tensor, mask_T: torch.Tensor, axis: Axis
    ) -> torch.Tensor:
        rows, width = logits_TV.shape
        logits_TV = logits_TV.detach()
        own_T = labels_T - axis.rank * width
        inside_T = (own_T >= 0) & (own_T < width)
        own_T = own_T.clamp(0, width - 1)

        # This rank's part alone: the largest logit, and sum(exp(logit - largest)).
        top_T, sum_T = torch.empty(2, rows, dtype=torch.float32, device=logits_TV.device)
        target_T = logits_TV.gather(1, own_T[:, None])[:, 0].float() * inside_T
        in_place = ctx.needs_input_grad[0] and logits_TV.dtype == torch.float32
        for chunk in _chunks(logits_TV):
            part = logits_TV[chunk]
            top_T[chunk] = part.amax(dim=1)
            shifted = torch.sub(part, top_T[chunk, None], out=part if in_place else None)  # at least fp32
            exponentials = shifted.exp_()
            sum_T[chunk] = exponentials.sum(dim=1)
            if ctx.needs_input_grad[0] and not in_place:
                part.copy_(exponentials)

        highest_T = all_reduce(top_T.clone(), axis, dist.ReduceOp.MAX)
        shift_T = (top_T - highest_T).exp()
        total_T, target_T = all_reduce(torch.stack((sum_T * shift_T, target_T)), axis)
        log_likelihood_T = target_T - highest_T - total_T.log()
        weight_T = mask_T.float()

        if ctx.needs_input_grad[0]:
            ctx.exponentials_TV = logits_TV
            # The gradient is softmax, and softmax - 1 at the label: there it is computed in fp32.
            at_label_T = weight_T * log_likelihood_T.expm1()
            ctx.save_for_backward(own_T, inside_T, weight_T * shift_T / total_T, at_label_T)
        total: torch.Tensor = -(log_likelihood_T * weight_T).sum()
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        grad_TV: torch.Tensor = ctx.exponentials_TV
        ctx.exponentials_TV = None
        own_T, inside_T, share_T, at_label_T = ctx.saved_tensors
        scale_T1 = (share_T * grad)[:, None]
        for chunk in _chunks(grad_TV):
            torch.mul(grad_TV[chunk], scale_T1[chunk], out=grad_TV[chunk])
        at_own_T = grad_TV.gather(1, own_T[:, None])[:, 0]
        at_own_T = torch.where(inside_T, (at_label_T * grad).to(grad_TV.dtype), at_own_T)
        grad_TV.scatter_(1, own_T[:, None], at_own_T[:, None])
        return grad_TV, None, None, None


def _chunks(logits_TV: torch.Tensor) -> list[slice]:
    rows, width = logits_TV.shape
    # The compiler fuses the passes over all rows; each chunk would be code of its own, and a copy of them.
    step = rows if torch.compiler.is_compiling() else max(1, CHUNK_ELEMENTS // width)
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


class CrossEntropySum(nn.Module):
    """Sum over the tokens that the mask counts of -log softmax(logits)[label], in nats."""

    def __init__(self, axis: Axis | None = None) -> None:
        super().__init__()
        self.axis = axis or Axis()

    def forward(self, logits_TV: torch.Tensor, labels_T: torch.Tensor, mask_T: torch.Tensor) -> torch.Tensor:
        """Collective over the axis. The logits are used up: their memory becomes their gradient's."""
        total: torch.Tensor = _CrossEntropySum.apply(logits_TV, labels_T, mask_T, self.axis)  # type: ignore[no-untyped-call]
        return total
