"""Rotary position embedding (arXiv 2104.09864), half-split as in Hugging Face's Llama, with Llama 3's
scaling.

Legend: B batch, S sequence, N heads, H head dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from megatrain.config import Llama3Scaling, RopeConfig


@dataclass(frozen=True)
class Rotation:
    """The turn of each position, for all layers."""

    cos_B1SH: torch.Tensor
    sin_B1SH: torch.Tensor

    def __call__(self, x_BNSH: torch.Tensor) -> torch.Tensor:
        """Turn pair (i, i + H/2) of each head by the position's angle."""
        first, second = x_BNSH.chunk(2, dim=-1)
        return x_BNSH * self.cos_B1SH + torch.cat((-second, first), dim=-1) * self.sin_B1SH


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
