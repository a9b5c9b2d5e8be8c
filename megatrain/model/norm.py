"""RMSNorm (arXiv 1910.07467).

Legend: T rows, D dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class _CpuRMSNorm(torch.autograd.Function):
    """Torch's formula with a gradient of six passes over memory, where autograd takes fourteen.

    With r = 1 / sqrt(mean(x^2) + eps) of each row, dy the output's gradient and w the weight:
    dx = r * (w * dy - x * r^2 * mean(x * w * dy)), and dw the sum over the rows of r * x * dy.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.to(_accumulation_dtype(x))
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        dtype = _accumulation_dtype(x)
        x_TD, grad_TD = (tensor.to(dtype).flatten(0, -2) for tensor in (x, grad))
        weight_D, scale_T = weight.to(dtype), scale.flatten()
        product_TD = x_TD * grad_TD
        weight_grad_D = scale_T @ product_TD
        along_T = (product_TD @ weight_D) * scale_T.square() / -x.shape[-1]
        x_grad_TD = torch.mul(grad_TD, weight_D, out=product_TD)
        x_grad_TD.addcmul_(x_TD, along_T[:, None]).mul_(scale_T[:, None])
        return x_grad_TD.view(x.shape).to(x.dtype), weight_grad_D.to(weight.dtype), None


def _accumulation_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dim; the mean is taken in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():  # there torch's own is fused
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        out: torch.Tensor = _CpuRMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out
