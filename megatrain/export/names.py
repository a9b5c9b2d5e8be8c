"""Logical tensor names and their names in Hugging Face's Llama, both ways."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from megatrain.config import ModelConfig
from megatrain.errors import FailedWork
from megatrain.model import Transformer, model_plan
from megatrain.parallel.context import Axis
from megatrain.parallel.plan import layout_of

# RoPE turns pairs (i, i + H/2) on both sides, so queries and keys need no permutation.
HF_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "layers.N.attention_norm.weight": "model.layers.N.input_layernorm.weight",
    "layers.N.attention.wq.weight": "model.layers.N.self_attn.q_proj.weight",
    "layers.N.attention.wk.weight": "model.layers.N.self_attn.k_proj.weight",
    "layers.N.attention.wv.weight": "model.layers.N.self_attn.v_proj.weight",
    "layers.N.attention.wo.weight": "model.layers.N.self_attn.o_proj.weight",
    "layers.N.mlp_norm.weight": "model.layers.N.post_attention_layernorm.weight",
    "layers.N.mlp.gate.weight": "model.layers.N.mlp.gate_proj.weight",
    "layers.N.mlp.up.weight": "model.layers.N.mlp.up_proj.weight",
    "layers.N.mlp.down.weight": "model.layers.N.mlp.down_proj.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_NATIVE_NAMES = {hf: native for native, hf in HF_NAMES.items()}
_LAYER = re.compile(r"(?<=\blayers\.)\d+(?=\.)")


def logical_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every logical tensor, in the model's order; a tied head is none of its own."""
    with torch.device("meta"):
        plain = Transformer(model)
    stored = [(name, tuple(parameter.shape)) for name, parameter in plain.named_parameters()]
    layout = layout_of(stored, model_plan(model), Axis())
    return {piece.name: piece.shape for pieces in layout.values() for piece in pieces}


def to_hf(native: str) -> str:
    """Raises FailedWork for a tensor that Hugging Face's Llama has no place for."""
    return _translate(native, HF_NAMES, "a tensor that Hugging Face's Llama has no place for")


def to_native(hf: str) -> str:
    """Raises FailedWork for a tensor that our model has no place for."""
    return _translate(hf, _NATIVE_NAMES, "a tensor that megatrain's model has no place for")


def require_same_names(found: Iterable[str], wanted: Iterable[str], where: object) -> None:
    """Raises FailedWork naming the first tensor that is absent or one too many."""
    found, wanted = set(found), set(wanted)
    if missing := sorted(wanted - found):
        raise FailedWork(f"{where}: lacks the tensor {missing[0]} ({len(missing)} are missing)")
    if extra := sorted(found - wanted):
        raise FailedWork(f"{where}: has the tensor {extra[0]}, which its model does not ({len(extra)} such)")


def _translate(name: str, table: dict[str, str], complaint: str) -> str:
    layer = _LAYER.search(name)
    other = table.get(_LAYER.sub("N", name))
    if other is None:
        raise FailedWork(f"{name}: {complaint}")
    return other if layer is None else other.replace(".N.", f".{layer[0]}.")
