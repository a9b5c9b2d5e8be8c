"""config.json of Hugging Face's Llama from a model's config, and back."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from megatrain.config import Llama3Scaling, ModelConfig, RopeConfig
from megatrain.errors import UserError, require

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def hf_config(
    model: ModelConfig, *, sequence_length: int, dtype: str, bos_id: int | None, eos_id: int
) -> dict[str, Any]:
    """What config.json says; `sequence_length` is the longest the model was trained on."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "intermediate_size": model.ffn_dim,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "max_position_embeddings": sequence_length,
        "initializer_range": model.init_std,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": True,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        # transformers 5 reads rope_parameters and dtype, 4 and others the older three: without them theta
        # would be 10000 there, and nothing would say so.
        "rope_parameters": {**_rope(model.rope), "rope_theta": model.rope.theta},
        "rope_theta": model.rope.theta,
        "rope_scaling": _rope(model.rope) if model.rope.llama3 else None,
        "dtype": TORCH_NAMES[dtype],
        "torch_dtype": TORCH_NAMES[dtype],
    }


def model_config(tree: dict[str, Any], where: object) -> ModelConfig:
    """The model that a config.json describes.

    Raises UserError naming the key where it is no Llama that megatrain's model can be.
    """
    fixed = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for key, value in fixed.items():
        require(
            tree.get(key, value) == value and (key in tree or key != "model_type"),
            f"{where}: {key} is {tree.get(key)!r}; megatrain's model has {value!r}",
        )
    try:
        heads = tree["num_attention_heads"]
        rope = tree.get("rope_parameters") or {**(tree.get("rope_scaling") or {})}
        return ModelConfig(
            vocab_size=tree["vocab_size"],
            dim=tree["hidden_size"],
            layers=tree["num_hidden_layers"],
            heads=heads,
            kv_heads=tree.get("num_key_value_heads") or heads,
            head_dim=tree.get("head_dim") or tree["hidden_size"] // heads,
            ffn_dim=tree["intermediate_size"],
            norm_eps=tree["rms_norm_eps"],
            rope=RopeConfig(
                theta=rope.get("rope_theta") or tree.get("rope_theta", 10000.0), llama3=_llama3(rope, where)
            ),
            tied_embeddings=tree.get("tie_word_embeddings", False),
            init_std=tree.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise UserError(f"{where}: lacks {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _rope(rope: RopeConfig) -> dict[str, Any]:
    if rope.llama3 is None:
        return {"rope_type": "default"}
    return {
        "rope_type": "llama3",
        "factor": rope.llama3.factor,
        "low_freq_factor": rope.llama3.low_freq_factor,
        "high_freq_factor": rope.llama3.high_freq_factor,
        "original_max_position_embeddings": rope.llama3.original_sequence_length,
    }


def _llama3(rope: dict[str, Any], where: object) -> Llama3Scaling | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    require(kind in ("default", "llama3"), f"{where}: rope_type {kind!r} is none that megatrain's model has")
    if kind == "default":
        return None
    return Llama3Scaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_sequence_length=rope["original_max_position_embeddings"],
    )
