"""Initial weights that are the same on every layout.

Each logical tensor is drawn in blocks of rows from a generator keyed by (seed, logical name, block), so that
a rank draws
just the blocks it holds a slice of, and a fused or sliced weight gets what the whole one would.
"""

from __future__ import annotations

import math

import torch
import xxhash
from torch import nn

from megatrain.config import ModelConfig
from megatrain.model.transformer import Transformer, model_plan, residual_writers
from megatrain.parallel.context import ParallelContext
from megatrain.parallel.plan import Layout, Piece
from megatrain.parallel.tensor import apply_plan

BLOCK_ELEMENTS = 1 << 18


def build_model(
    config: ModelConfig,
    context: ParallelContext,
    *,
    seed: int,
    dtype: torch.dtype,
    documents: bool = False,
    recompute: str = "none",
) -> tuple[Transformer, Layout]:
    """This rank's slice of the model with its initial weights on `context.device`; only the slice is ever in
    memory."""
    assert recompute in ("none", "block"), recompute
    with torch.device("meta"):
        model = Transformer(
            config, documents=documents, recompute="block" if recompute == "block" else "none"
        )
    layout = apply_plan(model, model_plan(config), context.tensor)
    fill_weights(model, layout, config, seed=seed, device=context.device, dtype=dtype)
    return model, layout


def fill_weights(
    model: nn.Module,
    layout: Layout,
    config: ModelConfig,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give every (meta) parameter its memory and its initial values: N(0, std) for matrices, ones for
    norms."""
    filled: dict[int, nn.Parameter] = {}
    for name, meta in list(model.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        if id(meta) not in filled:  # tied weights have one name in the layout, the first
            value = torch.empty(meta.shape, dtype=dtype, device=device)
            for piece in layout[name]:
                rows = value.narrow(0, piece.first_row, piece.local[0])
                rows.copy_(initial_values(piece, config, seed))
            parameter = nn.Parameter(value)
            parameter.tensor_model_parallel = meta.tensor_model_parallel  # type: ignore[attr-defined]
            filled[id(meta)] = parameter
        setattr(model.get_submodule(owner), leaf, filled[id(meta)])


def initial_values(piece: Piece, config: ModelConfig, seed: int) -> torch.Tensor:
    """The slice's initial values, fp32, on the CPU."""
    if len(piece.shape) == 1:
        return torch.ones(piece.local)
    module = piece.name.rpartition(".")[0].rpartition(".")[2]
    # GPT-2 and Megatron-LM: the sum of 2 * layers residual branches keeps its variance.
    std = config.init_std / math.sqrt(2 * config.layers) if module in residual_writers() else config.init_std
    columns = slice(piece.offset[1], piece.offset[1] + piece.local[1])
    first, last = piece.offset[0], piece.offset[0] + piece.local[0]
    height = max(1, BLOCK_ELEMENTS // piece.shape[1])
    out = torch.empty(piece.local)
    for block in range(first // height, -(-last // height)):
        top = block * height
        rows = min(height, piece.shape[0] - top)
        key = xxhash.xxh3_64_intdigest(f"{seed}/{piece.name}/{block}".encode()) >> 1
        drawn = torch.empty(rows, piece.shape[1]).normal_(
            0, std, generator=torch.Generator().manual_seed(key)
        )
        low, high = max(first, top), min(last, top + rows)
        out[low - first : high - first] = drawn[low - top : high - top, columns]
    return out
