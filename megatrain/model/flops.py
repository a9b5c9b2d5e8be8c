"""How many parameters a model has, and how many floating-point operations a token of it costs.

Model FLOPs as counted by Megatron (arXiv 2104.04473, 2205.05198 appendix A) and PaLM (arXiv 2204.02311
appendix B): matrix products only, 2 operations a multiply-add, the backward pass twice the forward, the
attention matrix in full (not halved for the causal mask or cut by document masks), the output head counted,
the look-up of the embedding free, recomputation not counted.

    H = heads * head_dim, K = kv_heads * head_dim, S = sequence length, V = vocabulary, D = dim, F = ffn_dim
"""

from __future__ import annotations

from dataclasses import dataclass

from megatrain.config import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    total: int
    """Tied embeddings count once."""
    non_embedding: int
    """Without the embedding and an untied head."""
    matmul: int
    """Those that every token is multiplied with: linear layers and the head, tied or not."""


def count_parameters(model: ModelConfig) -> ParameterCount:
    attention = model.dim * model.head_dim * (2 * model.heads + 2 * model.kv_heads)  # wq and wo, wk and wv
    feed_forward = 3 * model.dim * model.ffn_dim
    linear = model.layers * (attention + feed_forward)
    norms = model.dim * (2 * model.layers + 1)
    head = model.vocab_size * model.dim
    return ParameterCount(
        total=linear + norms + head * (1 if model.tied_embeddings else 2),
        non_embedding=linear + norms,
        matmul=linear + head,
    )


def forward_flops_per_token(model: ModelConfig, sequence_length: int) -> float:
    """Of one token in a window of that length: 2 * N_matmul + 4 * layers * H * S."""
    attention = 4 * model.layers * model.heads * model.head_dim * sequence_length
    return float(2 * count_parameters(model).matmul + attention)


def train_flops_per_token(model: ModelConfig, sequence_length: int) -> float:
    """Forward and backward: 6 * N_matmul + 12 * layers * H * S."""
    return 3 * forward_flops_per_token(model, sequence_length)
