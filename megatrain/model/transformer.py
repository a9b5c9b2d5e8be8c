"""A Llama-style decoder, plain: it knows nothing of ranks; `model_plan` beside it says how it is split.

Legend: B batch, S sequence, D model dim, T = B * S, V vocabulary (of this rank).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from megatrain.config import ModelConfig
from megatrain.model.attention import Attention, Cache, LayerCache, document_mask
from megatrain.model.mlp import SwiGLU
from megatrain.model.norm import RMSNorm
from megatrain.model.rope import Rotation, rotation
from megatrain.parallel.cross_entropy import CrossEntropySum
from megatrain.parallel.plan import Column, Part, Plan, Replicated, Row, Vocab


class LossSum(NamedTuple):
    """The loss as a sum, so that micro-batches and ranks add up exactly.

    A tuple, because DeepSpeed's ZeRO 3 looks for tensors in the outputs of modules.
    """

    total: torch.Tensor
    """Nats, summed over the counted tokens; fp32 scalar."""
    tokens: torch.Tensor
    """How many tokens counted; int64 scalar."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.ffn_dim)

    def forward(
        self,
        x_BSD: torch.Tensor,
        rotate: Rotation,
        mask: torch.Tensor | None,
        cache: LayerCache | None = None,
    ) -> torch.Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotate, mask, cache)
        out: torch.Tensor = x_BSD + self.mlp(self.mlp_norm(x_BSD))
        return out


class Transformer(nn.Module):
    """Decoder with a language-modelling loss.

    With `documents`, attention stays within the documents that the positions mark (each begins at position
    0).
    """

    def __init__(
        self, config: ModelConfig, *, documents: bool = False, recompute: Literal["none", "block"] = "none"
    ) -> None:
        super().__init__()
        self.config = config
        self.documents = documents
        self.recompute = recompute
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.loss = CrossEntropySum()

    def forward(
        self,
        tokens_BS: torch.Tensor,
        labels_BS: torch.Tensor,
        positions_BS: torch.Tensor,
        loss_mask_BS: torch.Tensor,
    ) -> LossSum:
        dtype = self.embedding.weight.dtype
        mask = document_mask(positions_BS, dtype) if self.documents else None
        x_BSD = self._hidden(tokens_BS, positions_BS, mask, None)
        total = self.loss(self.head(x_BSD).flatten(0, 1), labels_BS.flatten(), loss_mask_BS.flatten())
        return LossSum(total, loss_mask_BS.sum(dtype=torch.int64))

    def logits(
        self, tokens_BS: torch.Tensor, positions_BS: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """Logits (B, S, V) of the next token; causal, without document boundaries.

        With a cache, `tokens` are what follows the positions already in it: a whole prompt first, then one
        at a time.
        """
        assert cache is None or cache.length == 0 or tokens_BS.shape[1] == 1, (
            "one token at a time after the prompt"
        )
        x_BSD = self._hidden(tokens_BS, positions_BS, None, cache)
        out: torch.Tensor = self.head(x_BSD)
        return out

    def _hidden(
        self,
        tokens_BS: torch.Tensor,
        positions_BS: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Cache | None,
    ) -> torch.Tensor:
        x_BSD = self.embedding(tokens_BS)
        rotate = rotation(positions_BS, self.config.head_dim, self.config.rope, x_BSD.dtype)
        for index, block in enumerate(self.layers):
            if self.recompute == "block" and torch.is_grad_enabled():
                x_BSD = checkpoint(block, x_BSD, rotate, mask, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, rotate, mask, cache.layers[index] if cache is not None else None)
        out: torch.Tensor = self.norm(x_BSD)
        return out


def model_plan(config: ModelConfig) -> Plan:
    """How each layer of the decoder is split over the tensor axis, and the logical tensors its weight is
    made of."""
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "embedding": Vocab(),
        "layers.*.attention_norm": Replicated(),
        "layers.*.attention.qkv": Column((Part("wq", q), Part("wk", kv), Part("wv", kv))),
        "layers.*.attention.wo": Row(),
        "layers.*.mlp_norm": Replicated(),
        "layers.*.mlp.gate_up": Column((Part("gate", config.ffn_dim), Part("up", config.ffn_dim))),
        "layers.*.mlp.down": Row(),
        "norm": Replicated(),
        "head": Vocab(),
        "loss": Vocab(),
    }


def residual_writers() -> frozenset[str]:
    """Last name parts of the layers that write into the residual stream; they start smaller."""
    return frozenset({"wo", "down"})
