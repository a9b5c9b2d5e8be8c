"""Grouped-query self-attention; the mask comes from outside.

Legend: B batch, S sequence (queries), T positions attended to, D model dim, N heads, K heads of keys and
values,
H head dim; N and K are those of this rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from megatrain.config import ModelConfig
from megatrain.model.rope import Rotation


@dataclass
class LayerCache:
    """Keys and values of the positions seen so far, of one layer; grows at every call."""

    keys_BKTH: torch.Tensor | None = None
    values_BKTH: torch.Tensor | None = None

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys_BKTH is not None and self.values_BKTH is not None:
            keys = torch.cat((self.keys_BKTH, keys), dim=2)
            values = torch.cat((self.values_BKTH, values), dim=2)
        self.keys_BKTH, self.values_BKTH = keys, values
        return keys, values


@dataclass
class Cache:
    """Keys and values of all layers, for generation one token at a time."""

    layers: list[LayerCache] = field(default_factory=list)

    @staticmethod
    def empty(layers: int) -> Cache:
        return Cache([LayerCache() for _ in range(layers)])

    @property
    def length(self) -> int:
        keys = self.layers[0].keys_BKTH
        return 0 if keys is None else keys.shape[2]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(H)) v with rotary positions; queries, keys and values come from one matrix
    product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.group = config.heads // config.kv_heads
        width = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.dim, width, bias=False)
        self.wo = nn.Linear(config.heads * config.head_dim, config.dim, bias=False)

    def forward(
        self,
        x_BSD: torch.Tensor,
        rotate: Rotation,
        mask_B1ST: torch.Tensor | None,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        """`mask` is added to the scores; None is causal within the sequence."""
        batch, sequence, _ = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, sequence, -1, self.head_dim)
        kv_heads = qkv.shape[2] // (self.group + 2)  # of this rank, read from the weight's own width
        q, k, v = rotate(qkv, self.group * kv_heads, kv_heads)
        if cache is not None:
            k, v = cache.extend(k, v)
        causal = mask_B1ST is None and sequence > 1
        out_BNSH = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_B1ST, is_causal=causal, enable_gqa=self.group > 1
        )
        out: torch.Tensor = self.wo(out_BNSH.transpose(1, 2).reshape(batch, sequence, -1))
        return out


def document_mask(positions_BS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Causal attention within documents: 0 where it may attend, -inf elsewhere, (B, 1, S, S), to be added to
    the scores; a document begins where the position is 0.

    A boolean mask would be turned into this one in every layer again.
    """
    sequence = positions_BS.shape[1]
    index = torch.arange(sequence, device=positions_BS.device)
    begin_BS = index - positions_BS  # where the position's own document begins
    mask_BST = (index[None, None, :] <= index[None, :, None]) & (index[None, None, :] >= begin_BS[:, :, None])
    open_, shut = (torch.tensor(x, dtype=dtype, device=index.device) for x in (0.0, float("-inf")))
    return torch.where(mask_BST, open_, shut)[:, None]
