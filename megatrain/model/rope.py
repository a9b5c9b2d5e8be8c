"""Rotary position embedding (arXiv 2104.09864), half-split as in Hugging Face's Llama, with Llama 3's
scaling.

Legend: B batch, S sequence, N heads, H head dim; M heads of queries, keys and values together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from megatrain.config import Llama3Scaling, RopeConfig


@dataclass(frozen=True)
class Rotation:
    """The turn of each position, for all layers."""

    cos_B1SH: torch.Tensor
    sin_B1SH: torch.Tensor

    def __call__(
        self, qkv_BSMH: torch.Tensor, queries: int, keys: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, each (B, N, S, H); in the first two, pair (i, i + H/2) of each head is
        turned by the position's angle."""
        q, k, v = _SplitAndTurn.apply(qkv_BSMH, self.cos_B1SH, self.sin_B1SH, queries, keys)  # type: ignore[no-untyped-call]
        return q, k, v


class _SplitAndTurn(torch.autograd.Function):
    """The gradients of all three are written into one buffer in the order of the input: nothing is filled
    with zeros, added up or transposed."""

    @staticmethod
    def forward(
        ctx: Any, qkv_BSMH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, queries: int, keys: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        x_BMSH = qkv_BSMH.transpose(1, 2)
        out_BMSH = torch.empty_like(x_BMSH, memory_format=torch.contiguous_format)
        turned = queries + keys
        _turn(x_BMSH[:, :turned], cos, sin, out_BMSH[:, :turned])
        # Attention is faster on values with their positions side by side, and the input can be freed.
        out_BMSH[:, turned:] = x_BMSH[:, turned:]
        q, k, v = torch.split(out_BMSH, [queries, keys, keys], dim=1)
        return q, k, v

    @staticmethod
    def backward(
        ctx: Any, q_grad: torch.Tensor, k_grad: torch.Tensor, v_grad: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None, None]:
        cos, sin = ctx.saved_tensors
        batch, queries, sequence, head_dim = q_grad.shape
        keys = k_grad.shape[1]
        out_BSMH = q_grad.new_empty(batch, sequence, queries + 2 * keys, head_dim)
        q_out, k_out, v_out = torch.split(out_BSMH.transpose(1, 2), [queries, keys, keys], dim=1)
        for grad, out in ((q_grad, q_out), (k_grad, k_out)):
            _turn(grad, cos, -sin, out)  # the gradient is turned back
        v_out[:] = v_grad
        return out_BSMH, None, None, None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
    """out = x * cos + (-second half of x, first half of x) * sin."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])


def rotation(positions_BS: torch.Tensor, head_dim: int, config: RopeConfig, dtype: torch.dtype) -> Rotation:
    """Angles are computed in fp32 and rounded to `dtype` only as cosine and sine."""
    frequencies_h = inverse_frequencies(head_dim, config, positions_BS.device)
    angles_BSh = positions_BS[..., None].float() * frequencies_h
    angles_B1SH = torch.cat((angles_BSh, angles_BSh), dim=-1)[:, None]
    return Rotation(angles_B1SH.cos().to(dtype), angles_B1SH.sin().to(dtype))


def inverse_frequencies(
    head_dim: int, config: RopeConfig, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """theta^(-2i/H) for i < H/2, scaled if asked; fp32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float() / head_dim
    frequencies = 1.0 / (config.theta**exponents)
    return frequencies if config.llama3 is None else _scale(frequencies, config.llama3)


def _scale(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Llama 3.1's rule: long waves are slowed by `factor`, short ones kept, those between interpolated."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_sequence_length / wavelengths
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
