"""Initial weights that are the same on every layout.

Each logical tensor is drawn in blocks of rows from a generator keyed by (seed, logical name, block), so that
a rank draws just the blocks it holds a slice of, and a fused or sliced weight gets what the whole one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import xxhash
from torch import nn

from megatrain.config import ModelConfig
from megatrain.model.transformer import Transformer, model_plan, residual_writers
from megatrain.parallel.context import ParallelContext
from megatrain.parallel.plan import Layout, Piece
from megatrain.parallel.tensor import apply_plan

BLOCK_ELEMENTS = 1 << 18
Settle = Callable[[nn.Module], None]
"""Puts a block away whose weights have their initial values: with ZeRO 3 among the data-parallel ranks."""


def build_model(
    config: ModelConfig,
    context: ParallelContext,
    *,
    seed: int,
    dtype: torch.dtype,
    documents: bool = False,
    recompute: str = "none",
    settle: Settle | None = None,
) -> tuple[Transformer, Layout]:
    """This rank's slice of the model with its initial weights on `context.device`; only the slice is ever in
    memory, and of that, where `settle` puts each block away, one block."""
    assert recompute in ("none", "block"), recompute
    with torch.device("meta"):
        model = Transformer(
            config, documents=documents, recompute="block" if recompute == "block" else "none"
        )
    layout = apply_plan(model, model_plan(config), context.tensor)
    filled: dict[int, nn.Parameter] = {}
    for name, block in _blocks(model):
        for stored, meta in list(block.named_parameters(name)):
            if id(meta) not in filled:  # tied weights have one name in the layout, the first
                filled[id(meta)] = _filled(meta, layout[stored], config, seed, context.device, dtype)
            owner, _, leaf = stored.rpartition(".")
            setattr(model.get_submodule(owner), leaf, filled[id(meta)])
        if settle is not None:
            settle(block)
    return model, layout


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The embedding, each layer, and what follows them, by name."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{number}", block) for number, block in enumerate(child))
        else:
            yield name, child


def _filled(
    meta: nn.Parameter,
    pieces: Sequence[Piece],
    config: ModelConfig,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Parameter:
    """A (meta) parameter with memory and initial values: N(0, std) for matrices, ones for norms."""
    value = torch.empty(meta.shape, dtype=dtype, device=device)
    for piece in pieces:
        rows = value.narrow(0, piece.first_row, piece.local[0])
        rows.copy_(initial_values(piece, config, seed))
    parameter = nn.Parameter(value)
    parameter.tensor_model_parallel = meta.tensor_model_parallel  # type: ignore[attr-defined]
    return parameter


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
