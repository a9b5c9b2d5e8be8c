"""The SwiGLU feed-forward network (arXiv 2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class _Gated(torch.autograd.Function):
    """Its gradient is written into the two halves of one tensor, where autograd would make both apart and
    copy them together. The operations are autograd's, so the numbers are."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        open_ = F.silu(gate)
        ctx.save_for_backward(gate_up, open_)
        return open_ * up

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        gate_up, open_ = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        gate_out, up_out = out.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_out)
        torch.mul(grad, open_, out=up_out)
        return out


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, of (..., 2F) the halves; (..., F)."""
    if torch.compiler.is_compiling():  # which fuses it by itself
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    out: torch.Tensor = _Gated.apply(gate_up)  # type: ignore[no-untyped-call]
    return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one matrix product."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * ffn_dim, bias=False)
        self.down = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down(gated(self.gate_up(x)))
        return out
